"""Decides how much of each sub-block is kept, so that a budget is met. Torch-free."""
