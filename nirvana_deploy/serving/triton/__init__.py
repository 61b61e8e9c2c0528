"""Triton model repositories, and their check by a real tritonserver."""
