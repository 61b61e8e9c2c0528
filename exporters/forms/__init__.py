"""The forms that a graph can take: each is a tuple of passes."""
