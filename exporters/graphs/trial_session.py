"""Opens a foreign ONNX graph in a process of its own first, as ONNX Runtime may die of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from exporters.graphs.export_manifest import find_manifest
from exporters.graphs.read_structure import read_structure
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError

_SECONDS = 600.0
_TRIAL = """
import sys
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
try:
    onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
except Exception:
    pass  # the caller gets the same error, and words it
"""
_survived: set[tuple[str, int, int]] = set()


def require_loadable(path: Path) -> None:
    """Raise NirvanaError where opening `path` kills ONNX Runtime, naming the node where it can.

    A graph that `export.json` beside it vouches for by its hash needs no trial, nor one that this
    process has tried.
    """
    if not path.is_file():
        return
    stat = path.stat()
    key = (str(path.resolve()), stat.st_mtime_ns, stat.st_size)
    if key in _survived or _is_own(path):
        return
    command = [sys.executable, "-I", "-c", _TRIAL, str(path.resolve())]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NirvanaError(
            f"ONNX Runtime did not open {path} within {_SECONDS:.0f} s. Expected a graph that it "
            "can load; export the model again."
        ) from error
    if ran.returncode < 0:
        import onnxruntime

        raise NirvanaError(
            f"ONNX Runtime {onnxruntime.__version__} crashes ({_name_signal(-ran.returncode)}) "
            f"when it opens {path}.{_describe_suspect(path)} Export the model again, or use "
            "another version of onnxruntime."
        )
    _survived.add(key)


def _is_own(path: Path) -> bool:
    """Return whether `export.json` beside the file has its hash."""
    try:
        manifest = find_manifest(path)
    except NirvanaError:  # whoever needs the manifest says what is wrong with it
        return False
    graphs = () if manifest is None else manifest.graphs.values()
    return hash_file(path) in [graph.sha256.get(path.name) for graph in graphs]


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _describe_suspect(path: Path) -> str:
    """Name the first node that leaves out its last input by an empty name.

    ONNX allows that; ONNX Runtime 1.32 reads beyond it while it fuses nodes.
    """
    for node in read_structure(path).graph.node:
        if node.input and not node.input[-1]:
            name = node.name or node.output[0]
            return (
                f" The node {name} ({node.op_type}) writes an input that it leaves out as an empty "
                "name, which is a known cause: drop that name."
            )
    return ""
