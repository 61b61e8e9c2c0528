"""Turns a checkpoint into ONNX and ONNX into engines, each verified against its source."""
