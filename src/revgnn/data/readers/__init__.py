"""Readers of data sets, one file for each file layout on disk."""
