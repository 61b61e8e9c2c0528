"""Builds, audits and vouches for engines of TensorRT and TensorRT-RTX."""
