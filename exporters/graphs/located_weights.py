"""Reads the fingerprint of a located model's weights, as they are before they are cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exporters.graphs.linear_map import LinearMap
from exporters.graphs.located_model import LocatedModel, LocatedSubBlock
from exporters.graphs.tensor_values import read_array
from pruning.plans.dense_dims import DenseDims
from pruning.plans.weight_fingerprint import (
    Matrix,
    WeightFingerprint,
    WeightGroup,
    pick_channels,
    take_fingerprint,
)


def fingerprint_located(located: LocatedModel, dims: DenseDims) -> tuple[WeightFingerprint, ...]:
    """Return the fingerprint of what a graph has of a plan's model; a few weights are read.

    Some graphs have one stack of two, or take the encoder's keys and values as inputs: what is not
    there is left out.
    """
    sub_blocks = {(s.sub_block.layer, s.sub_block.part): s for s in located.sub_blocks}

    def read(group: WeightGroup) -> Sequence[Matrix] | None:
        found = sub_blocks.get((group.layer, group.part))
        if found is None:
            return None
        if group.side == "output":
            return [_pick(found.output, units_axis=found.output.in_axis)]
        return _read_inputs(found) if _is_whole(found) else None

    return take_fingerprint(dims, read)


def _is_whole(located: LocatedSubBlock) -> bool:
    """Return whether queries, keys and values are all there."""
    parts = [part for projection, _ in located.inputs for part in projection.parts]
    return located.sub_block.part == "mlp" or (parts.count("kv") > 1 and "query" in parts)


def _read_inputs(located: LocatedSubBlock) -> list[Matrix]:
    maps = {id(li.weight): li for _, linears in located.inputs for li in linears}
    return [_pick(linear, units_axis=linear.out_axis) for linear in maps.values()]


def _pick(linear: LinearMap, units_axis: int) -> Matrix:
    """Return a few hidden channels of a weight as float32 [units, channels]."""
    assert linear.weight.const_value is not None
    weight = read_array(linear.weight.const_value)
    if units_axis ^ _count_transposes(linear) % 2:
        weight = weight.T
    channels = pick_channels(weight.shape[1])
    return np.ascontiguousarray(weight[:, channels].astype(np.float32))


def _count_transposes(linear: LinearMap) -> int:
    """Return how often a weight is transposed on its way to the product."""
    count, value = 0, linear.node.inputs[1]
    while value is not None and value is not linear.weight:
        node = value.producer()
        if node is None:
            break
        if node.op_type == "Transpose":
            perm = node.attributes.get("perm")
            count += perm is None or list(perm.value) == [1, 0]
        value = node.inputs[0]
    return count
