"""Rows, labels, collation and metrics of each task."""
