"""Reads ONNX graphs: shapes, linear maps, where each attention and MLP is."""
