"""Reads nodes: attributes with their default, axes, names for messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pruning.errors import NirvanaError

Array = npt.NDArray[Any]


def read_array(tensor: ir.TensorProtocol) -> Array:
    """Return a tensor's values; of an external one by reading its bytes and no others.

    A mapped file would count as memory of this process as far as it was read.
    """
    if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype.itemsize < 1:
        return np.ascontiguousarray(tensor.numpy())
    shape = [int(n) for n in tensor.shape.numpy()]
    values: Array = np.fromfile(
        tensor.path, tensor.dtype.numpy(), math.prod(shape), offset=tensor.offset or 0
    )
    return values.reshape(shape)


def read_attribute(node: ir.Node, name: str, default: object) -> Any:
    """Return an attribute's value, `default` where the node has none."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def name_node(node: ir.Node) -> str:
    """Return how messages name a node."""
    domain = f"{node.domain}." if node.domain else ""
    return f"node {node.name or '(unnamed)'} ({domain}{node.op_type})"


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input, None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def need_input(node: ir.Node, index: int) -> ir.Value:
    """Return an input that the operator's definition requires."""
    value = input_at(node, index)
    if value is None:
        raise NirvanaError(f"{name_node(node)} lacks its input {index}: the graph is malformed.")
    return value


def name_scope(node: ir.Node) -> str:
    """Return the path of the torch module that made a node, `` where nothing tells it.

    torch.onnx writes it into the node's metadata, the TorchScript exporter into its name
    (`/bert/encoder/layer.0/attention/self/query/MatMul`).
    """
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    if scopes:
        paths = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
        return paths[-2] if len(paths) > 1 else ""
    name = node.name or ""
    return name.strip("/").rpartition("/")[0].replace("/", ".") if name.startswith("/") else ""
