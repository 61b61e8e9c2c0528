"""Prunes without training: calibrate, score, allocate, repair."""
