"""Plans as graphs to be timed: the dense graph, traced once and cut by each plan in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporters.export_config import ExportConfig
from exporters.surgeon.prune_onnx import prune_onnx
from exporters.trace.graph_inputs import draw_inputs
from exporters.trace.graph_part import GraphPart
from exporters.trace.list_parts import list_parts
from exporters.trace.trace_part import trace_graph, write_graph
from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from pruning.plans.plan import PruningPlan


@dataclass(frozen=True)
class DenseGraph:
    """The graph of a dense model (a decoder's: the one with a cache), for any shape of call."""

    path: Path
    part: GraphPart

    def bind(self, plan: PruningPlan, call: tuple[int, int, int], cut: Path) -> Callable[[], Any]:
        """Return a call of the graph cut by a plan, written to `cut`, on one thread.

        `call` is batch, length and tokens in the cache.
        """
        cut.parent.mkdir(parents=True, exist_ok=True)
        prune_onnx(self.path, plan, cut)
        sizes = dict(zip(("batch", "sequence", "past_sequence"), call, strict=True))
        tensors = draw_inputs(self.part.inputs, sizes)
        values = {t.name: v.numpy() for t, v in zip(self.part.inputs, tensors, strict=True)}
        runner = OnnxRuntimeRunner(cut, name=cut.stem, num_threads=1)
        return runner.bind(
            {spec.name: _fit(values[spec.name], spec.shape) for spec in runner.inputs}
        )


def trace_dense(model: Any, folder: Path) -> DenseGraph:
    """Trace a model that was loaded with eager attention, or find its graph in `folder`."""
    part, path = list_parts(model, ExportConfig())[-1], folder / "model.onnx"
    if not path.is_file():
        write_graph(trace_graph(part, ExportConfig().chosen_opset), path)
    return DenseGraph(path, part)


def _fit(value: np.ndarray, shape: tuple[int | str | None, ...]) -> np.ndarray:
    """Return what a graph takes that is narrower: a cache of fewer KV heads."""
    cut = tuple(slice(size if isinstance(size, int) else None) for size in shape)
    return np.ascontiguousarray(value[cut])
