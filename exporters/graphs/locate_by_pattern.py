"""Finds the sub-blocks of a plan's model in a graph without names, by what they compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from exporters.graphs.linear_map import LinearMap
from exporters.graphs.located_model import LocatedModel, LocatedSubBlock
from exporters.graphs.sub_block_pattern import AttentionPattern, MlpPattern, SubBlockPattern
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.sub_block import Part, SubBlock
from pruning.wirings.wiring import AttentionWiring, MlpWiring, Projection, StackWiring, Wiring

_Named = tuple[tuple[Projection, tuple[LinearMap, ...]], ...]


def locate_by_pattern(
    pattern: SubBlockPattern, wiring: Wiring | None, dims: DenseDims
) -> LocatedModel | None:
    """Return where the sub-blocks are, in the order of the graph; None where their number differs.

    `wiring` says whether a fused projection has its parts one after the other, or group by group.
    """
    for stacks in _list_choices(dims):
        counts = [s.num_layers * (2 if s.cross_attention else 1) for _, s in stacks]
        layers = sum(stack.num_layers for _, stack in stacks)
        if (sum(counts), layers) == (len(pattern.attentions), len(pattern.mlps)):
            return _locate(pattern, wiring, stacks)
    return None


def explain_pattern(pattern: SubBlockPattern, dims: DenseDims) -> str:
    """Say what was found, for the message that it does not fit."""
    wanted = ", ".join(f"{stack.num_layers} layers of the {stack.name}" for stack in dims.stacks)
    return (
        f"found {len(pattern.attentions)} attentions and {len(pattern.mlps)} MLPs in the graph, "
        f"the plan's model has {wanted}"
    )


def _list_choices(dims: DenseDims) -> Iterator[tuple[tuple[int, StackDims], ...]]:
    """Yield the stacks that a graph may have, all of them first, each with its first layer."""
    starts, start = [], 0
    for stack in dims.stacks:
        starts.append((start, stack))
        start += stack.num_layers
    for number in range(len(starts), 0, -1):
        yield from combinations(starts, number)


def _locate(
    pattern: SubBlockPattern, wiring: Wiring | None, stacks: Sequence[tuple[int, StackDims]]
) -> LocatedModel:
    attentions, mlps = iter(pattern.attentions), iter(pattern.mlps)
    layers: dict[int, tuple[LocatedSubBlock, ...]] = {}
    for start, dims in stacks:
        grouped = _is_grouped(wiring, dims)
        for layer in range(start, start + dims.num_layers):
            parts: tuple[Part, ...] = (
                ("attention", "cross_attention") if dims.cross_attention else ("attention",)
            )
            found = {part: _name_attention(next(attentions), layer, grouped) for part in parts}
            mlp_inputs, mlp_output = _name_mlp(next(mlps), layer)
            stack = StackWiring(
                name="decoder" if dims.name == "decoder" else "encoder",
                blocks="",
                attention=_make_attention(*found["attention"]),
                cross_attention=(
                    _make_attention(*found["cross_attention"]) if dims.cross_attention else None
                ),
                mlp=MlpWiring(inputs=tuple(p for p, _ in mlp_inputs), output=_name(mlp_output)),
            )
            layers[layer] = (
                *(
                    LocatedSubBlock(
                        sub_block=SubBlock(layer, part),
                        dims=dims,
                        stack=stack,
                        wiring=_make_attention(*found[part]),
                        inputs=found[part][0],
                        output=found[part][1],
                    )
                    for part in parts
                ),
                LocatedSubBlock(
                    sub_block=SubBlock(layer, "mlp"),
                    dims=dims,
                    stack=stack,
                    wiring=stack.mlp,
                    inputs=mlp_inputs,
                    output=mlp_output,
                ),
            )
    return LocatedModel(by="pattern", layers=layers)


def _is_grouped(wiring: Wiring | None, dims: StackDims) -> bool:
    stacks = () if wiring is None else wiring.stacks
    return any(
        projection.grouped
        for stack in stacks
        if stack.name == dims.name
        for projection in stack.attention.inputs
    )


def _name_attention(
    attention: AttentionPattern, layer: int, grouped: bool
) -> tuple[_Named, LinearMap]:
    maps = attention.inputs
    if any(len(linears) > 1 for linears in maps):
        names = ", ".join(_name(linear) for linears in maps for linear in linears)
        raise NirvanaError(
            f"Layer {layer}: expected one projection of queries, keys and values, found {names}."
        )
    if maps[0] == maps[2]:
        parts: tuple[str, ...] = ("query", "kv", "kv")
        fused = Projection(path=_name(maps[0][0]), parts=parts, grouped=grouped)  # type: ignore[arg-type]
        return ((fused, maps[0]),), attention.output
    named = [
        (Projection(path=_name(linears[0]), parts=(part,)), linears)  # type: ignore[arg-type]
        for linears, part in zip(maps, ("query", "kv", "kv"), strict=True)
        if linears
    ]
    return tuple(named), attention.output


def _name_mlp(mlp: MlpPattern, layer: int) -> tuple[_Named, LinearMap]:
    named = []
    for linear in mlp.inputs:
        parts = ("neuron",) * (linear.num_out // mlp.num_neurons)
        named.append((Projection(path=_name(linear), parts=parts), (linear,)))  # type: ignore[arg-type]
    assert named, layer
    return tuple(named), mlp.output


def _make_attention(inputs: _Named, output: LinearMap) -> AttentionWiring:
    return AttentionWiring(
        core="attention",
        inputs=tuple(projection for projection, _ in inputs),
        output=_name(output),
        head_dim="",
    )


def _name(linear: LinearMap) -> str:
    return linear.weight.name or ""
