"""Milliseconds by sub-block and kept units: what budgets in time are made of."""
