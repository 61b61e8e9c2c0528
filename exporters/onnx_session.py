"""Opens ONNX Runtime sessions: the one place, but for what travels with a package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.errors import MissingExtraError, NirvanaError

CPU = "CPUExecutionProvider"
# What ONNX Runtime logs by itself: nothing. Its errors are raised, and worded by us.
_FATAL_ONLY = 4
_UNKNOWN = re.compile(r"(?P<op>\w+)\(-?\d+\) is not a registered function/op")
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def import_onnxruntime(what: str = "ONNX Runtime") -> Any:
    """Import ONNX Runtime; raise MissingExtraError, which calls it `what`, where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(what, "cpu") from error
    return onnxruntime


def make_options(*, num_threads: int | None = None) -> Any:
    """Return session options that log nothing; `num_threads` are those of one operator."""
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    return options


def open_session(
    model: Path | bytes,
    *,
    name: str | None = None,
    options: Any = None,
    providers: Sequence[object] | None = (CPU,),
    place: str = "the CPU",
    is_trusted: bool = False,
) -> Any:
    """Open a graph; one that is not ours is opened in a child process first, which may crash.

    Args:
        model: The file, or a graph whose weights lie beside the file `name`.
        name: What messages call it.
        providers: None: those that `options` name already.
        place: What messages call these.
        is_trusted: Its hash was compared with that of a graph that was opened before.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        NirvanaError: the file is missing, or ONNX Runtime cannot load it.
    """
    onnxruntime = import_onnxruntime()
    name = name or str(model)
    options = make_options() if options is None else options
    if isinstance(model, bytes):
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(Path(name).absolute().parent))
    elif not model.is_file():
        raise NirvanaError(f"{model} is missing: expected an ONNX file.")
    elif not is_trusted:
        from exporters.graphs.trial_session import require_loadable

        require_loadable(model)
    source = model if isinstance(model, bytes) else str(model)
    chosen = {} if providers is None else {"providers": list(providers)}
    try:
        return onnxruntime.InferenceSession(source, options, **chosen)
    except Exception as error:  # ONNX Runtime's errors have no base of their own.
        raise NirvanaError(
            f"{name} cannot be loaded by ONNX Runtime {onnxruntime.__version__} on {place}: "
            f"{first_line(error)}{_name_unknown(model, str(error))} Export it again."
        ) from error


def first_line(error: Exception) -> str:
    """Return what ONNX Runtime says of an error, in one sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."


def _name_unknown(model: Path | bytes, message: str) -> str:
    """Name the first node of an operator that ONNX Runtime lacks; it names the operator only."""
    found = _UNKNOWN.search(message)
    if found is None:
        return ""
    import onnx

    from exporters.graphs.read_structure import read_structure

    graph = (
        read_structure(model) if isinstance(model, Path) else onnx.load_from_string(model)
    ).graph
    node = next((node for node in graph.node if node.op_type == found["op"]), None)
    if node is None:  # in a graph or function within
        return ""
    return f" It is the operator of the node {node.name or node.output[0]}."
