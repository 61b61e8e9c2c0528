"""Which tensors of a block a plan cuts, along which axis, and which indices stay.

Torch-free. Everything that cuts (in memory, from disk to disk) follows this one table.

Four heads of 2 channels in two KV groups; the plan keeps heads 2 and 3, and with them group 1:

    head            0   0   1   1   2   2   3   3
    q_proj.weight   r0  r1  r2  r3 [r4  r5  r6  r7]     Cut(axis=0, kept=(4, 5, 6, 7))
    k_proj.weight   r0  r1 [r2  r3]                     Cut(axis=0, kept=(2, 3)), v_proj alike
    o_proj.weight   c0  c1  c2  c3 [c4  c5  c6  c7]     Cut(axis=1, kept=(4, 5, 6, 7)): columns

A bias of a projection goes with its rows; the bias of an output projection stays whole. In GPT-2's
Conv1D (`transposed`) rows and columns change places. Of an attention without heads all tensors go
(kept=None) but the output's bias: with nothing to mix, it is what the attention still adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pruning.plans.dense_dims import StackDims
from pruning.plans.plan import LayerPlan, kept_groups
from pruning.wirings.wiring import AttentionWiring, MlpWiring, Projection, StackWiring


@dataclass(frozen=True, slots=True)
class Cut:
    """What becomes of one tensor: the indices that stay along an axis, or None to drop it."""

    axis: int
    kept: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class BlockCuts:
    """The cuts of one block: by tensor name, and prefixes under which every other one goes.

    A name with None stays whole, whatever its prefix says.
    """

    by_name: dict[str, Cut | None]
    dropped_prefixes: tuple[str, ...]

    def find(self, name: str) -> Cut | None:
        """Return the cut of a tensor of the block, None where it stays as it is."""
        if name in self.by_name:
            return self.by_name[name]
        gone = any(name.startswith(prefix) for prefix in self.dropped_prefixes)
        return Cut(axis=0, kept=None) if gone else None


def cut_block(stack: StackWiring, dims: StackDims, layer: LayerPlan) -> BlockCuts:
    """Return the cuts that take a dense block to what `layer` keeps."""
    by_name: dict[str, Cut | None] = {}
    dropped: list[str] = []
    for attention, heads in _pair_attentions(stack, layer):
        if heads:
            groups = kept_groups(heads, dims)
            columns = _spread(heads, dims.head_dim)
            rows = {p.path: _attention_rows(p, heads, groups, dims) for p in attention.inputs}
            by_name.update(_cut_linears(attention, rows, columns, stack.transposed))
        else:
            dropped += [f"{attention.core}.", *_linear_prefixes(attention)]
            by_name.update(_keep_remains(attention, heads))
    if layer.kept_neurons:
        rows = {p.path: _neuron_rows(p, layer.kept_neurons, dims) for p in stack.mlp.inputs}
        by_name.update(_cut_linears(stack.mlp, rows, layer.kept_neurons, stack.transposed))
    else:
        dropped += _linear_prefixes(stack.mlp)
        by_name.update(_keep_bias(stack.mlp.output, layer.kept_neurons))
    return BlockCuts(by_name, tuple(dropped))


def rows_of_units(projection: Projection, units: Sequence[int], dims: StackDims) -> tuple[int, ...]:
    """Return the rows that go with neurons, or with whole KV groups and their query heads."""
    if "neuron" in projection.parts:
        return _neuron_rows(projection, units, dims)
    return _attention_rows(projection, _spread(units, dims.heads_per_group), units, dims)


def _pair_attentions(
    stack: StackWiring, layer: LayerPlan
) -> Iterator[tuple[AttentionWiring, tuple[int, ...] | None]]:
    yield stack.attention, layer.kept_heads
    if stack.cross_attention is not None:
        yield stack.cross_attention, layer.kept_cross_heads


def _cut_linears(
    part: AttentionWiring | MlpWiring,
    rows: dict[str, tuple[int, ...]],
    columns: Sequence[int],
    transposed: bool,
) -> Iterator[tuple[str, Cut]]:
    for path, kept in rows.items():
        yield f"{path}.weight", Cut(1 if transposed else 0, kept)
        yield f"{path}.bias", Cut(0, kept)
    yield f"{part.output}.weight", Cut(0 if transposed else 1, tuple(columns))


def _attention_rows(
    projection: Projection, heads: Sequence[int], groups: Sequence[int], dims: StackDims
) -> tuple[int, ...]:
    # With 2 query heads per KV group, head_dim 1, and heads 2 and 3 (group 1) kept:
    #     parts query, kv, kv:  q0 q1[q2 q3] k0[k1] v0[v1]   rows 2 3, 5, 7
    #     grouped (GPT-NeoX):   q0 q1 k0 v0 [q2 q3 k1 v1]    rows 4 5 6 7
    size = dims.heads_per_group
    if projection.grouped:  # a group's rows: its query heads, its key, its value
        stride, units = size + 2, []
        for group in groups:
            units += [group * stride + head % size for head in heads if head // size == group]
            units += [group * stride + size, group * stride + size + 1]
        return _spread(units, dims.head_dim)
    units, start = [], 0
    for part in projection.parts:
        kept, total = (heads, dims.num_heads) if part == "query" else (groups, dims.num_kv_heads)
        units += [start + unit for unit in kept]
        start += total
    return _spread(units, dims.head_dim)


def _neuron_rows(
    projection: Projection, neurons: Sequence[int], dims: StackDims
) -> tuple[int, ...]:
    # A fused gate and up projection has its neurons twice: g0 g1 g2 u0 u1 u2.
    starts = (part * dims.intermediate_size for part in range(len(projection.parts)))
    return tuple(start + neuron for start in starts for neuron in neurons)


def _spread(units: Sequence[int], width: int) -> tuple[int, ...]:
    return tuple(unit * width + i for unit in units for i in range(width))


def _linear_prefixes(part: AttentionWiring | MlpWiring) -> list[str]:
    return [f"{path}." for path in (*(p.path for p in part.inputs), part.output)]


def _keep_remains(
    attention: AttentionWiring, heads: tuple[int, ...] | None
) -> Iterator[tuple[str, None]]:
    """Spare the shared bias table, which other layers need, and the output's bias if it stays."""
    yield from _keep_bias(attention.output, heads)
    if attention.bias_table:
        yield f"{attention.core}.{attention.bias_table}.weight", None


def _keep_bias(output: str, kept: tuple[int, ...] | None) -> Iterator[tuple[str, None]]:
    if kept is not None:
        yield f"{output}.bias", None
