"""Where the attentions and the MLPs of a plan's dense model are in a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporters.graphs.linear_map import LinearMap
from exporters.graphs.node_reading import read_array
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.sub_block import SubBlock
from pruning.plans.weight_fingerprint import (
    Matrix,
    WeightFingerprint,
    WeightGroup,
    pick_channels,
    take_fingerprint,
)
from pruning.wirings.wiring import AttentionWiring, MlpWiring, Projection, StackWiring


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedSubBlock:
    """One attention or MLP in a graph.

    Attributes:
        wiring: its record; in a graph without names, one that was made for it.
        inputs: for each projection that is there, its maps: several where a weight is used twice.
    """

    sub_block: SubBlock
    dims: StackDims
    stack: StackWiring
    wiring: AttentionWiring | MlpWiring
    inputs: tuple[tuple[Projection, tuple[LinearMap, ...]], ...]
    output: LinearMap

    @property
    def linears(self) -> Iterator[LinearMap]:
        """All maps, the output's last."""
        for _, linears in self.inputs:
            yield from linears
        yield self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedModel:
    """All sub-blocks of the stacks that a graph has.

    Attributes:
        by: what told where they are: `names` or `pattern`.
        layers: by number in the plan, the sub-blocks of the layer.
        unchecked_heads: layers of which the graph does not show how many heads they have.
        unchecked_sizes: of the plan's dims, those that the graph does not show.
    """

    by: str
    layers: dict[int, tuple[LocatedSubBlock, ...]]
    unchecked_heads: tuple[int, ...] = ()
    unchecked_sizes: tuple[str, ...] = ()

    @property
    def sub_blocks(self) -> Iterator[LocatedSubBlock]:
        """The sub-blocks of all layers."""
        for located in self.layers.values():
            yield from located


def count_rows(projection: Projection, dims: StackDims) -> int:
    """Return the output rows that a projection of the dense model has."""
    if "neuron" in projection.parts:
        return dims.intermediate_size * len(projection.parts)
    heads = {"query": dims.num_heads, "kv": dims.num_kv_heads}
    return dims.head_dim * sum(heads[part] for part in projection.parts)


def count_columns(dims: StackDims, part: str) -> int:
    """Return the input columns that the output projection of a dense sub-block has."""
    return dims.intermediate_size if part == "mlp" else dims.num_heads * dims.head_dim


def check_sizes(located: LocatedSubBlock) -> None:
    """Raise NirvanaError unless every weight has the size that the plan's dims say."""
    dims, sub_block = located.dims, located.sub_block
    for projection, linears in located.inputs:
        for linear in linears:
            _check_size(linear.num_out, count_rows(projection, dims), linear, sub_block)
    columns = count_columns(dims, sub_block.part)
    _check_size(located.output.num_in, columns, located.output, sub_block)
    _check_size(located.output.num_out, dims.hidden_size, located.output, sub_block)


def check_parameters(located: LocatedSubBlock) -> Iterator[str]:
    """Refuse a plan whose model has other parameters per unit: a gated MLP for a plain one.

    Yields the sizes of which the graph shows less: ONNX Runtime adds a bias together with other
    terms, and computes the projection of a constant once.

    Raises:
        NirvanaError: the graph shows more, or the plan says more than there can be.
    """
    if located.sub_block.part == "cross_attention":
        return  # the sizes of the plan are those of the self-attention
    for name, (shown, most) in _count_parameters(located).items():
        expected = getattr(located.dims.sizes, name)
        if shown < expected <= most:
            yield f"sizes.{name}"
        elif shown != expected:
            raise NirvanaError(
                f"The plan was made for sizes.{name} {expected} of the {located.dims.name}, the "
                f"graph has {shown} in layer {located.sub_block.layer}. Apply it to the dense "
                "graph of the model that it was made for."
            )


def _count_parameters(located: LocatedSubBlock) -> dict[str, tuple[int, int]]:
    """Return, by name in `UnitSizes`, how many parameters a graph shows, and the most it can have.

    Keys and values that come from a cache are left out.
    """
    dims, hidden = located.dims, located.output.num_out
    units = {"query": ("query_head", dims.head_dim), "kv": ("kv_head", dims.head_dim)}
    output_bias = "attention_bias"
    if located.sub_block.part == "mlp":
        units, output_bias = {"neuron": ("neuron", 1)}, "mlp_bias"
    found = {output_bias: (0 if located.output.bias is None else hidden, hidden)}
    for part, (name, rows) in units.items():
        owned = [
            (linears[0], rows * projection.parts.count(part))
            for projection, linears in located.inputs
        ]
        if not _is_whole(located):
            continue
        weights = sum(linear.num_in * count for linear, count in owned)
        weights += 0 if part == "kv" else rows * hidden
        hidden_rows = rows * _count_hidden(located, part)
        found[f"{name}_weights"] = weights, weights + hidden * hidden_rows
        biases = sum(count for linear, count in owned if linear.bias is not None)
        found[f"{name}_biases"] = biases, sum(count for _, count in owned) + hidden_rows
    return found


def _count_hidden(located: LocatedSubBlock, part: str) -> int:
    """Return how many rows of a unit may lie in projections that the graph does not show."""
    shown = {projection.path for projection, _ in located.inputs}
    if located.sub_block.part == "mlp":
        return 0
    return sum(
        projection.parts.count(part)
        for projection in located.wiring.inputs
        if projection.optional and projection.path not in shown
    )


def check_once(sub_blocks: Sequence[LocatedSubBlock]) -> None:
    """Raise NirvanaError if two projections of the plan share a weight."""
    owners: dict[ir.Value, str] = {}
    for located in sub_blocks:
        groups = [(p.path, linears) for p, linears in located.inputs]
        for path, linears in [*groups, (located.wiring.output, (located.output,))]:
            owner = f"layer {located.sub_block.layer}, {path}"
            for linear in linears:
                known = owners.setdefault(linear.weight, owner)
                if known != owner:
                    raise NirvanaError(
                        f"Initializer {linear.weight.name} is the weight of {known} and of {owner}:"
                        " layers that share weights cannot be pruned apart."
                    )


def _check_size(came: int, expected: int, linear: LinearMap, sub_block: SubBlock) -> None:
    if came != expected:
        raise NirvanaError(
            f"Layer {sub_block.layer}, {sub_block.part}: the plan's model has a weight of "
            f"{expected} units' channels, initializer {linear.weight.name} has {came}. Is the plan "
            "of another model, or the graph pruned already?"
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
        return _read_inputs(found) if _shows_all(found) else None

    return take_fingerprint(dims, read)


def _is_whole(located: LocatedSubBlock) -> bool:
    """Return whether queries, keys and values are all there."""
    parts = [part for projection, _ in located.inputs for part in projection.parts]
    return located.sub_block.part == "mlp" or (parts.count("kv") > 1 and "query" in parts)


def _shows_all(located: LocatedSubBlock) -> bool:
    """Return whether all projections into a sub-block are there, those of positions too."""
    if not _is_whole(located) or located.sub_block.part == "cross_attention":
        return _is_whole(located)
    name = "neuron_weights" if located.sub_block.part == "mlp" else "query_head_weights"
    return bool(_count_parameters(located)[name][0] == getattr(located.dims.sizes, name))


def _read_inputs(located: LocatedSubBlock) -> list[Matrix]:
    maps = {li.weight: li for _, linears in located.inputs for li in linears}
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
