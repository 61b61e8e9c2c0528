"""Learns or scores prunable units, decides the plan, makes the model physically smaller.

Knows torch and transformers; knows nothing of ONNX, engines or servers.
"""
