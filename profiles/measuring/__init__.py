"""Samples that can be believed: warm-up, intervals, load, the state of the machine."""
