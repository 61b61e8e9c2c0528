"""Runs of a recipe: stages, their folders, and what is checked before."""
