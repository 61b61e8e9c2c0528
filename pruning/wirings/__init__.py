"""Where each model type keeps its attention and its MLP: records, and how they are found."""
