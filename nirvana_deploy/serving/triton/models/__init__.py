"""Models for Triton's Python backend. Copied into packages, they import nothing of this project."""
