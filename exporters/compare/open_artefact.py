"""Opens what a path names for a comparison: a checkpoint, ONNX, an engine.

What opens them is imported when they are opened, so that a wrong path is refused at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from exporters.engines.engine_manifest import MANIFEST_NAME
from pruning.checkpoints.model_source import PYPI_PREFIX, require_weights
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    from exporters.compare.artefact import Artefact

ArtefactKind = Literal["checkpoint", "onnx", "engine"]


def open_pair(source: str, candidate: str) -> tuple[Artefact, Artefact]:
    """Open two artifacts that are to be compared.

    A checkpoint is cut into the graphs that the other one has, so that one is opened last.

    Raises:
        NirvanaError: a path names none of what can be compared, or what it names is corrupt.
    """
    paths = (source, candidate)
    kinds = {path: find_kind(path) for path in paths}
    opened = {path: _open_file(path, kind) for path, kind in kinds.items() if kind != "checkpoint"}
    names = [name for artefact in opened.values() for name in artefact.graphs]
    for path in paths:
        if path not in opened:
            from exporters.compare.checkpoint_artefact import open_checkpoint

            opened[path] = open_checkpoint(path, names)
    return opened[source], opened[candidate]


def find_kind(source: str) -> ArtefactKind:
    """Say what a path, a hub id or pypi:PACKAGE names; raise NirvanaError where it is none."""
    path = Path(source)
    if path.is_dir() and any(path.glob("*.safetensors")):
        return "checkpoint"
    if source.startswith(PYPI_PREFIX) or not (path.exists() or path.suffix == ".onnx"):
        return "checkpoint"
    if path.suffix == ".onnx" or (path.is_dir() and any(path.glob("*.onnx"))):
        return "onnx"
    if (find_engine_dir(path) / MANIFEST_NAME).is_file():
        return "engine"
    raise NirvanaError(
        "Expected a checkpoint (a folder with *.safetensors, a hub id, pypi:PACKAGE), ONNX (a file "
        f"or a folder with *.onnx) or an engine (a folder with {MANIFEST_NAME}), got {source}."
    )


def require_artefact(source: str) -> ArtefactKind:
    """Return what `find_kind` does, for a path where there is one.

    Raises:
        NirvanaError: besides, where a checkpoint has no weights or there is no such ONNX file.
    """
    kind = find_kind(source)
    if kind == "checkpoint":
        require_weights(source)
    elif kind == "onnx" and not Path(source).is_dir():
        require_onnx(Path(source))
    return kind


def require_onnx(path: Path) -> None:
    """Raise NirvanaError where there is no file at `path`."""
    if not path.is_file():
        raise NirvanaError(f"Expected an ONNX file at {path}, found none.")


def find_engine_dir(path: Path) -> Path:
    """Return the folder of an engine, of which a file may be given."""
    return path if path.is_dir() else path.parent


def _open_file(source: str, kind: ArtefactKind) -> Artefact:
    if kind == "onnx":
        from exporters.compare.onnx_artefact import open_onnx

        return open_onnx(Path(source))
    from exporters.compare.engine_artefact import open_engine

    return open_engine(find_engine_dir(Path(source)))
