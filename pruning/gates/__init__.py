"""Learns what to cut: gates that train with the task."""
