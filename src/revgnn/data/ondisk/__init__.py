"""A prepared graph on disk: its manifest, its parts, and the batches that are read from it."""
