"""Changes the number formats of a graph."""
