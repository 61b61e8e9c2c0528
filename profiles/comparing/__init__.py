"""Two artifacts measured in turns, and what can be said of the difference."""
