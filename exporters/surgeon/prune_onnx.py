"""Prunes an ONNX file by a plan: the graph that a trace of the repacked model gives, sooner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from exporters.graphs.read_onnx import read_onnx
from exporters.surgeon.check_graph import check_graph
from exporters.surgeon.prune_graph import GraphPruning, prune_graph
from exporters.surgeon.weightless import take_in_constants
from exporters.surgeon.write_onnx import Progress, write_onnx
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
    beside = _list_data(model)
    graph = prune_graph(model, plan)
    take_in_constants(model.graph)
    check_graph(model)
    written = write_onnx(model, out, external=bool(beside), progress=progress)
    return SurgeonResult(
        onnx_path=out,
        source_bytes=sum(path.stat().st_size for path in (dense, *beside)),
        size_bytes=sum(path.stat().st_size for path in written),
        graph=graph,
    )


def _list_data(model: ir.Model) -> list[Path]:
    """Return the files beside a graph that hold its weights."""
    weights = (value.const_value for value in model.graph.initializers.values())
    return sorted({Path(w.path) for w in weights if isinstance(w, ir.ExternalTensor)})
