"""`export.json`: what an export holds, and the hashes of its files. Everything reads it here.

{"graphs": {"model": {"file": "model.onnx", "sha256": {"model.onnx": "3f.."}, ...}},
 "companions": {"config.json": "a0..", "tokenizer.json": "77.."},
 "task": "text-classification", "form": "onnxruntime", "verification": {"passed": true}, ...}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from exporters.export_config import EXPORT_FILE
from exporters.graphs.read_structure import read_structure
from pruning.checkpoints.file_hash import check_inside, hash_file, hash_unchanged
from pruning.errors import NirvanaError
from pruning.strict_json import JsonMapping, convert_json, read_object

_REMEDY = "Export the model again."


class _TensorJson(TypedDict):
    name: str


class _GraphJson(TypedDict):
    sha256: dict[str, str]
    file: NotRequired[str]
    max_length: NotRequired[int | None]
    inputs: NotRequired[list[_TensorJson]]


class _VerificationJson(TypedDict):
    passed: bool


class _ManifestJson(TypedDict):
    graphs: dict[str, _GraphJson]
    companions: NotRequired[dict[str, str]]
    task: NotRequired[str]
    model_type: NotRequired[str]
    form: NotRequired[str]
    precision: NotRequired[str]
    opset: NotRequired[int]
    cache_length: NotRequired[int | None]
    verification: NotRequired[_VerificationJson]
    max_abs_difference: NotRequired[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedGraph:
    """One graph of an export.

    Attributes:
        sha256: The hash of the file and of each file of its data, by name.
        max_length: Positions that the model has; None where it has no limit.
        inputs: Names of the graph's inputs.
    """

    file: str
    sha256: Mapping[str, str]
    max_length: int | None
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportManifest:
    """What `export.json` says of a folder.

    Attributes:
        graphs: By the graph's name, such as `model` or `decoder_model`.
        companions: The hashes of config, tokenizer and plan, by name; older exports have none.
        told: The whole file, as plain JSON values.
    """

    folder: Path
    graphs: Mapping[str, ExportedGraph]
    companions: Mapping[str, str]
    told: JsonMapping

    @classmethod
    def read(cls, folder: Path) -> ExportManifest:
        """Read the manifest of a folder; the files are compared by `check`.

        Raises:
            NirvanaError: there is none, it cannot be read, or a graph has no hash in it.
        """
        path = folder / EXPORT_FILE
        if not os.path.lexists(path):
            raise NirvanaError(f"{path} is missing: {folder} is not a folder of `nirvana export`.")
        told = read_object(path, remedy=_REMEDY)
        graphs: dict[str, ExportedGraph] = {}
        checked = convert_json(told, _ManifestJson, name=str(path), remedy=_REMEDY)
        for name, graph in checked["graphs"].items():
            file = graph.get("file", f"{name}.onnx")
            if file not in graph["sha256"]:
                raise NirvanaError(f"{path} has no hash of {file}. {_REMEDY}")
            graphs[name] = ExportedGraph(
                file=file,
                sha256=graph["sha256"],
                max_length=graph.get("max_length"),
                inputs=tuple(tensor["name"] for tensor in graph.get("inputs", [])),
            )
        if not graphs:
            raise NirvanaError(f"{path} has no hash of any graph. {_REMEDY}")
        companions = checked.get("companions", {})
        return cls(folder=folder, graphs=graphs, companions=companions, told=told)

    def find(self, file: str) -> ExportedGraph | None:
        """Return the graph that is in a file, None where the manifest does not name it."""
        return next((graph for graph in self.graphs.values() if graph.file == file), None)

    def check(self, *, fresh: bool = False) -> None:
        """Compare all files with their hashes; see `check_graph` and `check_companions`."""
        for graph in self.graphs.values():
            self.check_graph(graph, fresh=fresh)
        self.check_companions()

    def check_companions(self) -> None:
        """Compare config, tokenizer and plan with their hashes, those that are there.

        Another tokenizer gives wrong ids, another config wrong names, and nothing fails.

        Raises:
            NirvanaError: a file is another.
        """
        for name, expected in self.companions.items():
            file = self.folder / check_inside(name, self.folder)
            if file.is_file() and hash_unchanged(file) != expected:
                raise NirvanaError(
                    f"{file} is not the file that {EXPORT_FILE} vouches for: it is damaged, or was "
                    "changed after the export. Make the change in the checkpoint and export that "
                    "again."
                )

    def check_graph(self, graph: ExportedGraph, *, fresh: bool = False) -> None:
        """Compare a graph and its data with their hashes.

        With `fresh` the files are read even where this process hashed them before, as for a
        package.

        Raises:
            NirvanaError: a file is missing or another, or some of the data has no hash.
        """
        for name, expected in graph.sha256.items():
            file = self.folder / check_inside(name, self.folder)
            if not file.is_file():
                raise NirvanaError(f"{file} is missing. {_REMEDY}")
            if (hash_file if fresh else hash_unchanged)(file) != expected:
                raise NirvanaError(
                    f"{file} is not the file that {EXPORT_FILE} vouches for: it is damaged, or was "
                    f"written by something else. Export the model again, or move a graph of your "
                    f"own into a folder without {EXPORT_FILE}."
                )
        for tensor in read_structure(self.folder / graph.file).graph.initializer:
            location = next((e.value for e in tensor.external_data if e.key == "location"), None)
            if location not in (None, *graph.sha256):
                raise NirvanaError(
                    f"{self.folder / EXPORT_FILE} has no hash of {location}, which holds weights "
                    f"of {graph.file}. {_REMEDY}"
                )


def check_companions(folder: Path) -> None:
    """Compare config and tokenizer of a folder with its `export.json`, where there is one."""
    manifest = find_manifest(folder / EXPORT_FILE)
    if manifest is not None:
        manifest.check_companions()


def find_manifest(path: Path) -> ExportManifest | None:
    """Return the manifest of the folder that a file is in; None where that is no export's.

    A folder or a dead link of that name is damage, and raises NirvanaError.
    """
    folder = path.parent
    return ExportManifest.read(folder) if os.path.lexists(folder / EXPORT_FILE) else None
