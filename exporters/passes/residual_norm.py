"""Reads a residual sum and the norm that follows it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from exporters.passes.graph_pass import NoMatchError
from exporters.passes.graph_reading import find_producer, read_axis


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualNorm:
    """A norm over the last dim of first + second, both [B, S, N].

    Attributes:
        total: the sum, which others may read too.
    """

    first: ir.Value
    second: ir.Value
    total: ir.Value
    add: ir.Node


def read_residual(x: ir.Value | None) -> ResidualNorm:
    """Return the sum that makes `x`, the input of a norm."""
    add = find_producer(x, "Add", "Sum")
    if add is None or x is None or len(add.inputs) != 2:
        raise NoMatchError("no residual sum comes before it")
    first, second = add.inputs
    if first is None or second is None or first.shape is None or second.shape is None:
        raise NoMatchError("the shapes of its residual sum are not known")
    if len(first.shape) != 3 or first.shape != second.shape:
        raise NoMatchError(f"it sums {first.shape} and {second.shape}, expected twice the same")
    return ResidualNorm(first=first, second=second, total=x, add=add)


def is_last_axis(norm: ir.Node) -> bool:
    """Return whether a LayerNormalization is over the last dim alone."""
    x = norm.inputs[0]
    rank = len(x.shape) if x is not None and x.shape is not None else 0
    return read_axis(norm) in (-1, rank - 1)
