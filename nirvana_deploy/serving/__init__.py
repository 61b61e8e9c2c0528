"""Turns a verified ONNX file into the folder that a server loads."""
