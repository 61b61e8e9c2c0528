"""Looks into a running model: block by block, and at what passes through each sub-block."""
