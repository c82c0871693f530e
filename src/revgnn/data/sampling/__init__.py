"""Batches of a graph: all of it, its parts, or the neighbours of some nodes; one file for each way to cut a graph."""
