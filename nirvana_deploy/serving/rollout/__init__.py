"""Scripts that travel with a package; they import nothing of this project."""
