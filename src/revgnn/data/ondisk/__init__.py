"""Prepared graphs on disk: the manifest, the parts, and batches read from them."""
