"""Measures latency and throughput so that the numbers can be believed."""
