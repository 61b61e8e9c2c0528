"""Prunes ONNX graphs: dense graph and plan to the graph of the repacked model."""
