"""Describes the folder of an export: its graphs, layer by layer, and what `export.json` tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.export_config import EXPORT_FILE
from exporters.graphs.export_manifest import ExportManifest, find_manifest
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    from exporters.graphs.graph_structure import GraphStructure


_TOLD = ("task", "model_type", "form", "precision", "opset", "cache_length", "calibration")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportStructure:
    """What is in a folder of ONNX files.

    Attributes:
        told: what `export.json` says of all graphs; empty where there is none.
        graphs: by file name.
        unknown: by file name, why a graph's layers are not known, as of a quantized one.
    """

    told: Mapping[str, object]
    graphs: Mapping[str, GraphStructure]
    unknown: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        graphs = {name: graph.to_json() for name, graph in self.graphs.items()}
        return {"told": dict(self.told), "graphs": graphs, "unknown": dict(self.unknown)}


def inspect_export(folder: Path) -> ExportStructure:
    """Describe every ONNX file in `folder`, whoever wrote them.

    Raises:
        NirvanaError: `export.json` is corrupt or of other files, or nothing is known of any graph.
    """
    from exporters.graphs.graph_structure import inspect_onnx

    manifest = find_manifest(folder / EXPORT_FILE)
    told = {} if manifest is None else _select_told(manifest)
    if manifest is not None:
        manifest.check()
    graphs: dict[str, GraphStructure] = {}
    unknown: dict[str, str] = {}
    for path in sorted(folder.glob("*.onnx")):
        try:
            graphs[path.name] = inspect_onnx(path)
        except NirvanaError as error:
            unknown[path.name] = str(error)
    if not graphs and not told:
        raise NirvanaError(" ".join(unknown.values()) or f"{folder} has no *.onnx.")
    return ExportStructure(told=told, graphs=graphs, unknown=unknown)


def is_export(source: str) -> bool:
    """Return whether a path is a folder of ONNX files, and of no checkpoint."""
    folder = Path(source)
    return folder.is_dir() and any(folder.glob("*.onnx")) and not any(folder.glob("*.safetensors"))


def refuse_exported(source: str) -> None:
    """Raise NirvanaError for ONNX where a checkpoint is to be exported."""
    if source.endswith(".onnx") or is_export(source):
        raise NirvanaError(
            f"Expected a checkpoint to export, {source} is ONNX already. For another form or "
            "precision, export the checkpoint that it came from; `nirvana surgeon` prunes an ONNX "
            "file, `nirvana build` makes an engine of it, `nirvana verify` compares it."
        )


def _select_told(manifest: ExportManifest) -> dict[str, object]:
    """Return what a reader wants to know of all graphs."""
    told = manifest.told
    try:
        found = {"passed": told["verification"]["passed"]}
        found["max_abs_difference"] = told["max_abs_difference"]
    except KeyError as error:
        raise NirvanaError(
            f"{manifest.folder / EXPORT_FILE} cannot be read: it lacks {error}. Export the model "
            "again."
        ) from error
    return {name: told[name] for name in _TOLD if name in told} | found
