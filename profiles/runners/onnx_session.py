"""Opens ONNX Runtime sessions on the provider that is asked for, and on no other."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from exporters.engines.engine_graph import list_external_data
from exporters.graphs.onnx_files import check_hashes
from exporters.graphs.read_structure import read_structure
from exporters.onnx_session import import_onnxruntime, make_options, open_session
from profiles.runners.execution_providers import ExecutionProvider, find_provider
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError
from pruning.write_aside import make_folder_aside, put_in_place

_OPTIONS = {
    # Idle worker threads spin for the next run. With two models in one process those of the one
    # would take the processor from the other; so they stop when their run returns.
    "session.force_spinning_stop": "1",
}
_CONTEXT_NAME = "model_ctx.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Say how a session is opened.

    Attributes:
        provider: short or full name.
        cache_dir: where the provider keeps what it compiles; what is there is loaded, and an
            engine runs code that it carries: give a folder that only you write.
        profile_prefix: of the files of ONNX Runtime's own profiler; None: it does not run.
    """

    num_threads: int
    provider: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)
    cache_dir: Path | None = None
    profile_prefix: Path | None = None


def open_measured_session(onnx_path: Path, settings: SessionSettings) -> Any:
    """Load a model; external data is found beside it.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        NirvanaError: the file is missing or not taken; the provider is not there, has no such
            option, or no cache.
    """
    onnxruntime = import_onnxruntime()
    provider = find_provider(settings.provider)
    options = dict(settings.options)
    provider.check_options(options)
    if settings.cache_dir is not None:
        options = {**provider.fill_cache_options(settings.cache_dir), **options}
    _require(onnxruntime, provider)
    if not onnx_path.is_file():
        raise NirvanaError(f"{onnx_path} is missing: expected an ONNX file to profile.")
    check_hashes(onnx_path)
    session_options = _make_options(onnxruntime, settings)
    with _keep_context(onnx_path, provider, settings, session_options) as path:
        session = _create(onnxruntime, path, session_options, (provider, options))
    # ONNX Runtime falls back to the CPU with no more than a warning.
    if session.get_providers()[0] != provider.name:
        raise NirvanaError(
            f"{provider.name} was asked, ONNX Runtime took {', '.join(session.get_providers())}: "
            "its libraries or its GPU are missing. `nirvana doctor` shows what is there."
        )
    return session


def _require(onnxruntime: ModuleType, provider: ExecutionProvider) -> None:
    """Raise NirvanaError unless ONNX Runtime has the provider; register it where it is a plugin."""
    there = list(onnxruntime.get_available_providers())
    if provider.name in there:
        return
    if provider.plugin is not None:
        with contextlib.suppress(ModuleNotFoundError):
            plugin = importlib.import_module(provider.plugin)
            if not _list_devices(onnxruntime, provider):
                name, library = plugin.get_ep_name(), plugin.get_library_path()
                onnxruntime.register_execution_provider_library(name, library)
            if not _list_devices(onnxruntime, provider):
                raise NirvanaError(
                    f"{provider.name} is installed, and finds no GPU here that it runs on."
                )
            return
    raise NirvanaError(
        f"ONNX Runtime has no provider {provider.short!r} here; it has {', '.join(there)}. It "
        f"takes {provider.install}."
    )


def _list_devices(onnxruntime: ModuleType, provider: ExecutionProvider) -> list[object]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.name]


def _make_options(onnxruntime: ModuleType, settings: SessionSettings) -> object:
    options = make_options(num_threads=settings.num_threads)
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    for key, value in _OPTIONS.items():
        options.add_session_config_entry(key, value)
    if settings.profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(settings.profile_prefix)
    return options


def _create(
    onnxruntime: ModuleType,
    path: Path,
    session_options: Any,
    asked: tuple[ExecutionProvider, dict[str, str]],
) -> Any:
    provider, options = asked
    if provider.name in onnxruntime.get_available_providers():
        providers = [(provider.name, options)]
        return open_session(path, options=session_options, providers=providers, place=provider.name)
    (device, *_) = _list_devices(onnxruntime, provider)
    session_options.add_provider_for_devices([device], options)
    return open_session(path, options=session_options, providers=None, place=provider.name)


@contextlib.contextmanager
def _keep_context(
    onnx_path: Path, provider: ExecutionProvider, settings: SessionSettings, session_options: Any
) -> Iterator[Path]:
    """Give the file to load: the compiled model that is kept, or `onnx_path`, to be compiled.

    A compiled model is kept by all that it depends on, and in place when it is whole.
    """
    if settings.cache_dir is None or not provider.keeps_context:
        yield onnx_path
        return
    folder = settings.cache_dir / _make_key(onnx_path, provider, settings)
    if (folder / _CONTEXT_NAME).is_file():
        yield folder / _CONTEXT_NAME
        return
    with make_folder_aside(folder) as aside:
        # ONNX Runtime's own entries, for any provider that keeps compiled parts.
        session_options.add_session_config_entry("ep.context_enable", "1")
        session_options.add_session_config_entry("ep.context_embed_mode", "0")
        session_options.add_session_config_entry("ep.context_file_path", str(aside / _CONTEXT_NAME))
        yield onnx_path
        if (aside / _CONTEXT_NAME).is_file():
            put_in_place(aside, folder)


def _make_key(onnx_path: Path, provider: ExecutionProvider, settings: SessionSettings) -> str:
    names = [onnx_path.name, *list_external_data(read_structure(onnx_path))]
    facts = {
        "files": [hash_file(onnx_path.parent / name) for name in names],
        "provider": provider.name,
        "options": dict(sorted(settings.options.items())),
        "onnxruntime": import_onnxruntime().__version__,
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
