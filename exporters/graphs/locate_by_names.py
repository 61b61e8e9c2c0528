"""Finds the attentions and MLPs of a graph by the torch modules that its nodes name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from exporters.graphs.linear_map import LinearMap
from exporters.graphs.located_model import LocatedModel, LocatedSubBlock
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.sub_block import Part, SubBlock
from pruning.wirings.known_wirings import WIRINGS
from pruning.wirings.wiring import AttentionWiring, MlpWiring, Projection, StackWiring, Wiring

# By number of the block and path in it.
_Found = dict[tuple[int, str], list[LinearMap]]


def locate_by_names(
    linears: Sequence[LinearMap], wiring: Wiring, dims: DenseDims
) -> LocatedModel | None:
    """Return where the sub-blocks of a model are; None where no map has a name of the wiring.

    Raises:
        NirvanaError: some of a stack is there, but not all, or more than the plan has.
    """
    layers: dict[int, tuple[LocatedSubBlock, ...]] = {}
    start = 0
    for stack, stack_dims in zip(wiring.stacks, dims.stacks, strict=True):
        found = _match(linears, stack)
        if found:
            _check_count(found, stack, stack_dims)
            for number in range(stack_dims.num_layers):
                layers[start + number] = _locate_layer(
                    found, number, start + number, stack, stack_dims
                )
        start += stack_dims.num_layers
    return LocatedModel(by="names", layers=layers) if layers else None


def list_types_named(linears: Sequence[LinearMap]) -> list[str]:
    """Return the model types whose modules the maps are named after."""
    return [
        model_type
        for model_type, wiring in WIRINGS.items()
        if all(_match(linears, stack) for stack in wiring.stacks)
    ]


def _match(linears: Sequence[LinearMap], stack: StackWiring) -> _Found:
    paths = {p.path for part in stack.parts for p in part.inputs}
    paths |= {part.output for part in stack.parts}
    # TorchScript numbers the second call of a module: `query_proj_1`.
    longest_first = "|".join(map(re.escape, sorted(paths, key=len, reverse=True)))
    pattern = re.compile(rf"(?:^|\.){re.escape(stack.blocks)}\.(\d+)\.({longest_first})(?:_\d+)?$")
    found: _Found = defaultdict(list)
    for linear in linears:
        match = next(filter(None, map(pattern.search, linear.paths())), None)
        if match is not None:
            found[int(match[1]), match[2]].append(linear)
    return found


def _check_count(found: _Found, stack: StackWiring, dims: StackDims) -> None:
    blocks = {number for number, _ in found}
    if blocks != set(range(dims.num_layers)):
        raise NirvanaError(
            f"The plan's {dims.name} has {dims.num_layers} layers, the graph has {stack.blocks} "
            f"{_list_numbers(blocks)}. Give the dense graph of the model that the plan is for."
        )


def _list_numbers(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _locate_layer(
    found: _Found, number: int, layer: int, stack: StackWiring, dims: StackDims
) -> tuple[LocatedSubBlock, ...]:
    parts: list[tuple[Part, AttentionWiring | MlpWiring]] = [("attention", stack.attention)]
    if stack.cross_attention is not None:
        parts.append(("cross_attention", stack.cross_attention))
    parts.append(("mlp", stack.mlp))
    return tuple(
        LocatedSubBlock(
            sub_block=SubBlock(layer, part),
            dims=dims,
            stack=stack,
            wiring=wiring,
            inputs=tuple(_find_inputs(found, number, layer, part, wiring)),
            output=_find_one(found, number, layer, wiring.output),
        )
        for part, wiring in parts
    )


def _find_inputs(
    found: _Found, number: int, layer: int, part: Part, wiring: AttentionWiring | MlpWiring
) -> list[tuple[Projection, tuple[LinearMap, ...]]]:
    inputs = []
    for projection in wiring.inputs:
        linears = found.get((number, projection.path), [])
        # A decoder step with a past has the keys and values of the encoder as inputs.
        cached = part == "cross_attention" and projection.parts == ("kv",)
        if linears:
            _check_same_weight(linears, layer, projection.path)
            inputs.append((projection, tuple(linears)))
        elif not projection.optional and not cached:
            raise _missing(layer, projection.path)
    if not inputs:
        raise _missing(layer, wiring.inputs[0].path)
    return inputs


def _find_one(found: _Found, number: int, layer: int, path: str) -> LinearMap:
    linears = found.get((number, path), [])
    if not linears:
        raise _missing(layer, path)
    if len(linears) > 1:
        names = " and ".join(str(linear.node.name) for linear in linears)
        raise NirvanaError(f"Layer {layer}: expected one {path}, found it in {names}.")
    return linears[0]


def _check_same_weight(linears: Sequence[LinearMap], layer: int, path: str) -> None:
    weights = {linear.weight.name for linear in linears}
    if len(weights) > 1:
        names = ", ".join(sorted(map(str, weights)))
        raise NirvanaError(f"Layer {layer}: expected one weight of {path}, found {names}.")


def _missing(layer: int, path: str) -> NirvanaError:
    return NirvanaError(
        f"Layer {layer}: the graph has no product with the weight of {path}. Expected a plain "
        "floating-point weight; quantize after pruning, not before."
    )
