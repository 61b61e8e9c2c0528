"""Finds in an ONNX graph what each block gives to the next, and makes graph outputs of it.

A node says which block it is of by its module scope: in its metadata (torch.onnx, transformers),
or in its name (TorchScript exports, which are what optimum writes).
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx

BLOCK_OUTPUT = "nirvana.block."
_SCOPES = "pkg.torch.onnx.name_scopes"
# layer.3 in `bert.encoder.layer.3.attention` and in `/bert/encoder/layer.3/attention/MatMul`.
_IN_METADATA = re.compile(r"^((?:\w+\.)*?[A-Za-z_]\w*)\.(\d+)(?:\.|$)")
_IN_NAME = re.compile(r"^((?:/[^/]+?)*?/[A-Za-z_]\w*)\.(\d+)(?:/|$)")

# The path of a list of modules, and a number in it.
Block = tuple[str, int]


def add_block_outputs(model: onnx.ModelProto) -> tuple[int, ...]:
    """Add, in place, the outputs `nirvana.block.N`; return the numbers N that were found.

    A block's output is the last of its values that a later part of the graph reads.

    Raises:
        NirvanaError: no node says which block it is of.
    """
    from onnx import TensorProto, helper

    blocks = _find_blocks(model)
    if not blocks:
        raise NirvanaError(
            "the graph's nodes do not say which block they are of, neither in "
            f"{_SCOPES} nor in their names."
        )
    for number, value in blocks.items():
        name = f"{BLOCK_OUTPUT}{number}"
        model.graph.node.append(helper.make_node("Cast", [value], [name], to=TensorProto.FLOAT))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return tuple(blocks)


def read_block(node: onnx.NodeProto) -> Block | None:
    """Return the outermost block that a node is of, None for a node outside of all."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return _read_scopes(entry.value)
    return _match(_IN_NAME, node.name)


def _read_scopes(text: str) -> Block | None:
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    # The last entry is the operator's own name.
    found = (_match(_IN_METADATA, str(scope)) for scope in scopes[:-1])
    return next((block for block in found if block is not None), None)


def _match(pattern: re.Pattern[str], text: str) -> Block | None:
    found = pattern.match(text)
    return (found[1], int(found[2])) if found else None


def _find_blocks(model: onnx.ModelProto) -> dict[int, str]:
    """Return what leaves each block of the longest list, in the order of the blocks."""
    by_list: dict[str, dict[int, str]] = {}
    for (path, number), name in _find_outputs(model).items():
        by_list.setdefault(path, {})[number] = name
    return dict(sorted(max(by_list.values(), key=len, default={}).items()))


def _find_outputs(model: onnx.ModelProto) -> dict[Block, str]:
    """Return by block the last of its values that is read outside of it; a cache is no such."""
    block_of = [read_block(node) for node in model.graph.node]
    pairs = list(zip(model.graph.node, block_of, strict=True))
    made_by = {name: block for node, block in pairs for name in node.output}
    leaving = {value.name for value in model.graph.output if not value.name.startswith("present")}
    for node, block in pairs:
        leaving.update(name for name in node.input if made_by.get(name) != block)
    cache = {value.name for value in model.graph.output} - leaving
    return {
        block: name  # in the order of the nodes: the last one of a block stays
        for name, block in made_by.items()
        if block is not None and name in leaving and name not in cache
    }
