"""Prunes an ONNX file by a plan: the graph that a trace of the repacked model gives, sooner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporters.graphs.read_onnx import read_onnx
from exporters.surgeon.prune_graph import GraphPruning, prune_graph
from exporters.surgeon.sliced_tensor import SlicedTensor
from exporters.surgeon.write_onnx import Progress, write_onnx
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeonResult:
    """What was written.

    Attributes:
        size_bytes: of the graph and its weights.
    """

    onnx_path: Path
    source_bytes: int
    size_bytes: int
    graph: GraphPruning

    def headline(self) -> list[tuple[str, str]]:
        """Return what happened as (what, value) for a person to read."""
        graph = self.graph
        return [
            ("graph", str(self.onnx_path)),
            ("size", f"{self.source_bytes / 1e6:,.1f} MB -> {self.size_bytes / 1e6:,.1f} MB"),
            ("nodes", f"{graph.nodes_before} -> {graph.nodes_after}"),
            ("layers found by", f"{graph.located_by}, {graph.num_layers} of them"),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "onnx_path": str(self.onnx_path),
            "source_bytes": self.source_bytes,
            "size_bytes": self.size_bytes,
            "located_by": self.graph.located_by,
            "num_layers": self.graph.num_layers,
            "nodes_before": self.graph.nodes_before,
            "nodes_after": self.graph.nodes_after,
        }


def prune_onnx(
    dense: Path, plan: PruningPlan, out: Path, *, progress: Progress | None = None
) -> SurgeonResult:
    """Write the dense graph `dense` as `plan` leaves it to `out`, a new file.

    Weights beside the graph stay beside it (`out` + ".data"), and are never in memory together.

    Raises:
        NirvanaError: the file is not whole, not of the plan's model, or has a structure that is not
            known; `out` is there or cannot be written.
    """
    model = read_onnx(dense)
    graph = prune_graph(model, plan)
    external = _has_external(model)
    write_onnx(model, out, check_onnx, external=external, progress=progress)
    return SurgeonResult(
        onnx_path=out,
        source_bytes=sum(path.stat().st_size for path in _list_files(dense)),
        size_bytes=sum(path.stat().st_size for path in _list_files(out)),
        graph=graph,
    )


def check_onnx(path: Path) -> None:
    """Raise NirvanaError unless a file passes ONNX's full check, shape inference included."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NirvanaError(
            f"The pruned graph does not pass ONNX's check, and was not kept: {error} Was the dense "
            "graph valid?"
        ) from error


def _has_external(model: ir.Model) -> bool:
    def base(tensor: ir.TensorProtocol | None) -> ir.TensorProtocol | None:
        return base(tensor.base) if isinstance(tensor, SlicedTensor) else tensor

    weights = model.graph.initializers.values()
    return any(isinstance(base(value.const_value), ir.ExternalTensor) for value in weights)


def _list_files(path: Path) -> list[Path]:
    """Return the files of a graph: its own, and those with its weights."""
    model = ir.load(path)
    weights = (value.const_value for value in model.graph.initializers.values())
    beside = {path.parent / w.location for w in weights if isinstance(w, ir.ExternalTensor)}
    return [path, *sorted(beside)]
