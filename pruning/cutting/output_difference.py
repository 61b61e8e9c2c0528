"""How far apart two models' outputs are: each output by itself, and NaN is a difference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

_HEADS = ("logits", "start_logits", "end_logits")


def name_predictions(output: Any) -> dict[str, torch.Tensor]:
    """Return the logits of a model's output by name: one, or an answer's start and end."""
    found = {name: output[name] for name in _HEADS if output.get(name) is not None}
    assert found, "the model has no head"
    return found


def predictions_of(output: object) -> list[torch.Tensor]:
    """Return the logits of a model's output: one tensor, or those of an answer's start and end."""
    return list(name_predictions(output).values())


def divergence(dense: list[torch.Tensor], pruned: list[torch.Tensor]) -> float:
    """Return KL(dense || pruned) in nats, the mean over rows, or over tokens where there are some.

    Logits are [B, classes] or [B, T, vocabulary].
    """
    return sum(_divergence(d, p) for d, p in zip(dense, pruned, strict=True)) / len(dense)


def _divergence(dense: torch.Tensor, pruned: torch.Tensor) -> float:
    dense_RC = F.log_softmax(dense.reshape(-1, dense.shape[-1]).float(), dim=-1)
    pruned_RC = F.log_softmax(pruned.reshape(-1, pruned.shape[-1]).float(), dim=-1)
    return float(F.kl_div(pruned_RC, dense_RC, log_target=True, reduction="batchmean"))


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
