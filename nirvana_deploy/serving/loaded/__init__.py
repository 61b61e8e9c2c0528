"""Exported graphs as models that are called, and generate, as transformers' are."""
