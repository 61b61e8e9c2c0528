"""Opens what a path names for a comparison: a checkpoint, ONNX, an engine."""

from __future__ import annotations

from pathlib import Path

from exporters.compare.artefact import Artefact
from exporters.compare.engine_artefact import open_engine
from exporters.compare.onnx_artefact import open_onnx
from exporters.engines.engine_manifest import MANIFEST_NAME
from pruning.checkpoints.model_source import PYPI_PREFIX
from pruning.errors import NirvanaError


def open_pair(source: str, candidate: str) -> tuple[Artefact, Artefact]:
    """Open two artefacts that are to be compared.

    A checkpoint is cut into the graphs that the other one has, so that one is opened last.

    Raises:
        NirvanaError: a path names none of what can be compared, or what it names is corrupt.
    """
    paths = (source, candidate)
    opened = {path: _open_file(path) for path in paths if not _is_checkpoint(path)}
    names = [name for artefact in opened.values() for name in artefact.graphs]
    for path in paths:
        if path not in opened:
            from exporters.compare.checkpoint_artefact import open_checkpoint

            opened[path] = open_checkpoint(path, names)
    return opened[source], opened[candidate]


def _is_checkpoint(source: str) -> bool:
    path = Path(source)
    if path.is_dir():
        return any(path.glob("*.safetensors"))
    return source.startswith(PYPI_PREFIX) or not (path.exists() or path.suffix == ".onnx")


def _open_file(source: str) -> Artefact:
    path = Path(source)
    if path.suffix == ".onnx" or (path.is_dir() and any(path.glob("*.onnx"))):
        return open_onnx(path)
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST_NAME).is_file():
        return open_engine(folder)
    raise NirvanaError(
        "Expected a checkpoint (a folder with *.safetensors, a hub id, pypi:PACKAGE), ONNX (a file "
        f"or a folder with *.onnx) or an engine (a folder with {MANIFEST_NAME}), got {source}."
    )
