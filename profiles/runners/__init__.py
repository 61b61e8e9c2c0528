"""What runs a model for a measurement: torch, ONNX Runtime, engines."""
