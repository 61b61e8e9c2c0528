"""Fuses places one by one into ONNX Runtime's operators, and says why those that stay do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import onnx_ir as ir

from exporters.passes.graph_pass import NoMatchError, Refusal, use_contrib
from exporters.passes.graph_reading import name_node

Place = TypeVar("Place")


def fuse_each(
    model: ir.Model,
    places: Iterable[tuple[ir.Node, Place]],
    fuse: Callable[[ir.Model, Place], None],
) -> tuple[int, list[Refusal]]:
    """Fuse in place what fits of `places`, each with the node that it is told by.

    Returns:
        how many were fused, and the others with their reasons.
    """
    refusals: list[Refusal] = []
    num_fused = 0
    for node, place in places:
        try:
            fuse(model, place)
            num_fused += 1
        except NoMatchError as error:
            refusals.append(Refusal(node=name_node(node), reason=str(error)))
    if num_fused:
        use_contrib(model)
    return num_fused, refusals
