"""Reads models, dense and pruned, and writes pruned ones as Hugging Face folders."""
