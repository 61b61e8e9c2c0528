"""Scripts that travel with a package. Python alone: they import nothing of this project."""
