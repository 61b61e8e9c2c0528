"""Prunes an ONNX file by a plan: the graph that a trace of the repacked model gives, sooner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from exporters.graphs.onnx_files import explain_malformed
from exporters.graphs.read_onnx import read_onnx
from exporters.surgeon.prune_graph import GraphPruning, prune_graph
from exporters.surgeon.write_onnx import take_in_constants, without_weights, write_onnx
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from pruning.progress import CountProgress
from pruning.strict_json import read_object


def check_graph(model: ir.Model) -> None:
    """Raise NirvanaError unless a graph passes the check.

    Weights are checked as inputs of their type and shape, so that gigabytes need not be written
    and read again for it.
    """
    try:
        with without_weights(model.graph, as_inputs=True):
            proto = ir.to_proto(model)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        cause = error.__cause__ or error
        raise NirvanaError(
            f"The pruned graph cannot be written down: {''.join(str(cause).splitlines()[:1])}. Is "
            "a name or an attribute of the dense graph damaged? Export it again."
        ) from error
    _name_domains(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NirvanaError(
            f"The pruned graph does not pass ONNX's check, and was not written: {error} Was the "
            "dense graph valid?"
        ) from error


def _name_domains(proto: onnx.ModelProto) -> None:
    """Let the check skip an operator of ONNX Runtime's that lies in ONNX's own domain, in place."""
    found = [node for node in proto.graph.node if node.op_type == _RUNTIME_NORM and not node.domain]
    for node in found:
        node.domain = "com.microsoft"
    if found and all(entry.domain != "com.microsoft" for entry in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


_RUNTIME_NORM = "SimplifiedLayerNormalization"


@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeonResult:
    """What was written.

    Attributes:
        size_bytes: of the graph and its weights.
        nan_tensors: weights that hold NaN or plus infinity.
        unchecked: what of the plan's model could not be compared with the graph.
    """

    onnx_path: Path
    source_bytes: int
    size_bytes: int
    graph: GraphPruning
    nan_tensors: tuple[str, ...]
    unchecked: tuple[str, ...]

    def headline(self) -> list[tuple[str, str]]:
        """Return what happened as (what, value) for a person to read."""
        graph = self.graph
        rows = [
            ("graph", str(self.onnx_path)),
            ("size", f"{self.source_bytes / 1e6:,.1f} MB -> {self.size_bytes / 1e6:,.1f} MB"),
            ("nodes", f"{graph.nodes_before} -> {graph.nodes_after}"),
            ("layers found by", f"{graph.located_by}, {graph.num_layers} of them"),
            ("weights", graph.weights),
        ]
        rows += [("not checked", what) for what in self.unchecked]
        if self.nan_tensors:
            rows.append(("WARNING: NaN or infinity in", ", ".join(self.nan_tensors)))
        return rows

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "onnx_path": str(self.onnx_path),
            "source_bytes": self.source_bytes,
            "size_bytes": self.size_bytes,
            "located_by": self.graph.located_by,
            "num_layers": self.graph.num_layers,
            "nodes_before": self.graph.nodes_before,
            "nodes_after": self.graph.nodes_after,
            "weights": self.graph.weights,
            "unchecked": list(self.unchecked),
            "nan_tensors": list(self.nan_tensors),
        }


def prune_onnx(
    dense: Path,
    plan: PruningPlan,
    out: Path,
    *,
    force: bool = False,
    progress: CountProgress | None = None,
) -> SurgeonResult:
    """Write the dense graph `dense` as `plan` leaves it to `out`, a new file.

    Weights beside the graph stay beside it (`out` + ".data"), and are never in memory together.
    With `force`, a plan that was made on other weights of the same sizes is taken.

    Raises:
        NirvanaError: the file is not whole, not of the plan's model, or has a structure that is not
            known; `out` is there or cannot be written.
    """
    with explain_malformed(dense):
        model = read_onnx(dense)
        model_type = _check_model_type(dense, plan)
        beside = _list_data(model)
        graph = prune_graph(model, plan, force=force)
        take_in_constants(model.graph)
        check_graph(model)
        written = write_onnx(model, out, external=bool(beside), progress=progress)
    return SurgeonResult(
        onnx_path=out,
        source_bytes=sum(path.stat().st_size for path in (dense, *beside)),
        size_bytes=sum(path.stat().st_size for path in written.files),
        graph=graph,
        nan_tensors=written.nan_tensors,
        unchecked=tuple(_list_unchecked(graph, model_type)),
    )


def _check_model_type(dense: Path, plan: PruningPlan) -> str:
    """Compare the plan's model type with what lies beside a graph; return what is said there.

    Graphs do not carry their model's type: BERT's and RoBERTa's have the same modules. Exports have
    it in export.json or config.json, also where the graph is in a folder `onnx` below.
    """
    folders = [dense.parent, *([dense.parent.parent] if dense.parent.name == "onnx" else [])]
    for path in (folder / name for folder in folders for name in ("export.json", "config.json")):
        if not path.is_file():
            continue
        remedy = "Mend or move the file, which says of which type the graph's model is."
        types = set(_list_types(read_object(path, remedy=remedy)))
        if types and plan.dims.model_type not in types:
            raise NirvanaError(
                f"The plan was made for model_type {plan.dims.model_type}, {path} says that the "
                f"graph's model is of type {', '.join(sorted(types))}. Apply the plan to the dense "
                "graph of the model that it was made for."
            )
        if types:
            return plan.dims.model_type
    return ""


def _list_types(config: Any, depth: int = 0) -> Iterator[str]:
    """Yield the model types that a config names: of composite models those of its parts too."""
    if not isinstance(config, dict) or depth > 2:
        return
    if isinstance(config.get("model_type"), str):
        yield config["model_type"]
    for part in config.values():
        yield from _list_types(part, depth + 1)


# Parameters that go with no unit: of norms, and what else an attention holds.
_ONLY_COUNTED = ("sizes.attention_rest", "sizes.norms", "sizes.first_block_lacks")


def _list_unchecked(graph: GraphPruning, model_type: str) -> Iterator[str]:
    if not model_type:
        yield "the model type: no export.json and no config.json with one lie beside the graph"
    if graph.unchecked_heads:
        layers = ", ".join(map(str, graph.unchecked_heads))
        yield f"the number of heads: the graph does not show it in layers {layers}"
    sizes = (*graph.unchecked_sizes, *_ONLY_COUNTED)
    yield f"{', '.join(sizes)}: the graph does not show them; they count in the plan's cost alone"


def _list_data(model: ir.Model) -> list[Path]:
    """Return the files beside a graph that hold its weights."""
    weights = (value.const_value for value in model.graph.initializers.values())
    return sorted({Path(w.path) for w in weights if isinstance(w, ir.ExternalTensor)})
