"""Compares the form of two ONNX graphs: a ratio says what pruning did only when forms are alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphForm:
    """Describe how a graph is written, apart from its sizes.

    Attributes:
        opsets: by domain, the version.
        weight_types: of initializers with two or more dimensions, such as FLOAT, INT8.
    """

    producer: str
    opsets: dict[str, int]
    num_nodes: int
    operators: frozenset[str]
    weight_types: frozenset[str]


def read_graph_form(onnx_path: Path) -> GraphForm:
    """Read an ONNX file without its external data."""
    import onnx

    if not onnx_path.is_file():
        raise NirvanaError(f"{onnx_path} is missing: expected an ONNX file to profile.")
    try:
        model = onnx.load(str(onnx_path), load_external_data=False)
        return _read_form(model)
    except Exception as error:  # protobuf's and of a type that ONNX does not know
        raise NirvanaError(
            f"{onnx_path} is not a readable ONNX file: {error}. Export it again."
        ) from error


def _read_form(model: onnx.ModelProto) -> GraphForm:
    from onnx import TensorProto

    types = TensorProto.DataType
    weights = (tensor for tensor in model.graph.initializer if len(tensor.dims) > 1)
    return GraphForm(
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        opsets={opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        num_nodes=len(model.graph.node),
        operators=frozenset(node.op_type for node in model.graph.node),
        weight_types=frozenset(types.Name(tensor.data_type) for tensor in weights),
    )


def list_differences(dense: GraphForm, pruned: GraphForm) -> list[str]:
    """Say in words what makes the two different forms; empty when they are alike.

    An operator that only the dense graph has is no difference: what was pruned away needs none.
    """
    pairs: list[tuple[str, Any, Any]] = [
        ("producer", dense.producer, pruned.producer),
        ("opset", _write(dense.opsets), _write(pruned.opsets)),
        ("weight types", _join(dense.weight_types), _join(pruned.weight_types)),
    ]
    found = [
        f"the graphs differ in form, {what}: dense {of_dense or 'none'}, pruned "
        f"{of_pruned or 'none'}"
        for what, of_dense, of_pruned in pairs
        if of_dense != of_pruned
    ]
    added = _join(pruned.operators - dense.operators)
    return [*found, f"the pruned graph alone has the operators {added}"] if added else found


def _write(opsets: dict[str, int]) -> str:
    return ", ".join(f"{domain} {version}" for domain, version in sorted(opsets.items()))


def _join(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
