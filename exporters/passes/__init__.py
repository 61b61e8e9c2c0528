"""Rewrites of a graph, one a file: each says what it changed and, by node, what it left and why."""
