"""Finds the sub-blocks of a plan's dense model in a graph: by names, else by pattern."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Sequence

import onnx_ir as ir

from exporters.graphs.graph_facts import GraphFacts
from exporters.graphs.linear_map import LinearMap, list_linear_maps
from exporters.graphs.locate_by_pattern import explain_pattern, locate_by_pattern
from exporters.graphs.located_model import (
    LocatedModel,
    LocatedSubBlock,
    check_once,
    check_parameters,
    check_sizes,
)
from exporters.graphs.node_reading import name_node
from exporters.graphs.sub_block_pattern import SubBlockPattern
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


# ONNX Runtime's optimizer puts the projections of an attention into one.
_FUSED = frozenset(("Attention",))


def locate(graph: ir.Graph, facts: GraphFacts, dims: DenseDims) -> LocatedModel:
    """Return where the attentions and MLPs of a dense model are.

    Raises:
        NirvanaError: they are not all there, share weights, or have other sizes or heads.
    """
    linears = list_linear_maps(graph, facts)
    wiring = WIRINGS.get(dims.model_type)
    fused = any(node.op_type in _FUSED and node.domain for node in graph)
    located, misnamed = None, None
    pattern = SubBlockPattern(graph, facts, linears)
    if wiring is not None and not fused:
        try:
            located = locate_by_names(linears, wiring, dims)
        except NirvanaError as error:
            # An optimizer drops the modules of the nodes, and a weight or two keep their names.
            misnamed = error
    if located is None:
        _refuse_other_type(linears, dims)
        located = locate_by_pattern(pattern, wiring, dims)
        if located is None:
            if misnamed is not None:
                raise misnamed
            raise NirvanaError(
                f"This is not a dense graph of the plan's model ({dims.model_type}): "
                f"{explain_pattern(pattern, dims)}. Give the graph of the model that the plan was "
                "made for, before it was quantized."
            )
    for sub_block in located.sub_blocks:
        check_sizes(sub_block)
    check_once(tuple(located.sub_blocks))
    unchecked = _check_heads(located, pattern)
    hidden = {name for sub_block in located.sub_blocks for name in check_parameters(sub_block)}
    return dataclasses.replace(
        located, unchecked_heads=unchecked, unchecked_sizes=tuple(sorted(hidden))
    )


def _check_heads(located: LocatedModel, pattern: SubBlockPattern) -> tuple[int, ...]:
    """Compare the heads of the plan's model with those of the graph, where it shows them.

    8 heads of 8 channels and 4 of 16 have weights of the same sizes. Returns the layers whose
    heads the graph does not show.

    Raises:
        NirvanaError: they differ.
    """
    by_output = {found.output.node: found for found in pattern.attentions}
    unchecked = []
    for sub_block in located.sub_blocks:
        found = by_output.get(sub_block.output.node)
        if sub_block.sub_block.part == "mlp":
            continue
        if found is None:
            unchecked.append(sub_block.sub_block.layer)
            continue
        dims = sub_block.dims
        counts = [("num_heads", found.num_heads), ("head_dim", found.head_dim)]
        if found.inputs[1] and found.inputs[2]:
            counts.insert(1, ("num_kv_heads", found.num_kv_heads))
        for name, count in counts:
            if count != getattr(dims, name):
                raise NirvanaError(
                    f"The plan was made for {name} {getattr(dims, name)} of the {dims.name}, the "
                    f"graph has {count} in layer {sub_block.sub_block.layer} "
                    f"({name_node(sub_block.output.node)}). Apply it to the dense graph of the "
                    "model that it was made for."
                )
    return tuple(dict.fromkeys(unchecked))


def _refuse_other_type(linears: Sequence[LinearMap], dims: DenseDims) -> None:
    named = list_types_named(linears)
    if named and dims.model_type in WIRINGS and dims.model_type not in named:
        names = ", ".join(named)
        raise NirvanaError(
            f"This is not a dense graph of the plan's model ({dims.model_type}): its modules are "
            f"named as those of {names}. Give the graph of the model that the plan was made for."
        )
