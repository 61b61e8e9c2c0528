"""What is kept of a model, and what it costs. Torch-free."""
