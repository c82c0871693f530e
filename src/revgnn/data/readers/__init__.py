"""Readers: one file for each layout in which data sets lie on disk."""
