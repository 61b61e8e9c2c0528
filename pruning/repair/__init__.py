"""Weights that make up for what was cut."""
