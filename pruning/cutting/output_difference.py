"""How far apart two models' outputs are: each output by itself, and NaN is a difference."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

# By the name that a model gives them.
Outputs = Mapping[str, torch.Tensor]


def max_difference(came: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest absolute difference of two tensors of one output.

    It is infinite where one side has NaN or the shapes differ; equal infinities do not differ.
    """
    if came.shape != expected.shape:
        return math.inf
    gaps = torch.where(came == expected, torch.zeros_like(came), (came - expected).abs())
    return float(gaps.nan_to_num(nan=math.inf, posinf=math.inf).max()) if gaps.numel() else 0.0


def find_largest(values: torch.Tensor) -> float:
    """Return the largest finite magnitude."""
    finite = values[torch.isfinite(values)]
    return float(finite.abs().max()) if finite.numel() else 0.0
