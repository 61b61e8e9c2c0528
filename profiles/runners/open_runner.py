"""Opens what a path names for a measurement: a checkpoint, an export, an ONNX file, an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from exporters.compare.open_artefact import find_engine_dir, find_kind
from exporters.engines.engine_profiles import find_max_length
from exporters.graphs.load_graph import find_id_limits
from profiles.measuring.environment import count_allowed_cpus
from profiles.runners.run_config import RunConfig
from profiles.runners.runner import Runner
from pruning.errors import NirvanaError

Config = TypeVar("Config", bound=RunConfig)


def open_runner(source: str, *, name: str, config: RunConfig) -> Runner:
    """Load an artifact into what runs its kind: torch, ONNX Runtime or OpenVINO, TensorRT.

    A checkpoint runs in float32: on the CPU, or with a provider other than `cpu` on the GPU.

    Raises:
        MissingExtraError: what runs it is not installed.
        NirvanaError: it is none of these, corrupt, or its device is not there.
    """
    kind = find_kind(source)
    if kind == "checkpoint":
        return _open_torch(source, name, config)
    if kind == "engine":
        from profiles.runners.engine_folder_runner import EngineFolderRunner

        folder = find_engine_dir(Path(source))
        return EngineFolderRunner(folder, name=name, cuda_graph=config.cuda_graph)
    if config.onnx_runtime == "openvino":
        from profiles.runners.openvino_runner import OpenVinoRunner

        return OpenVinoRunner(
            find_graph(Path(source)),
            name=name,
            num_threads=config.num_threads,
            precision=config.inference_precision,
        )
    from profiles.runners.execution_providers import parse_options
    from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner

    return OnnxRuntimeRunner(
        find_graph(Path(source)),
        name=name,
        num_threads=config.num_threads or count_allowed_cpus(),
        provider=config.provider,
        provider_options=parse_options(config.provider_options),
        provider_cache=None if config.provider_cache is None else Path(config.provider_cache),
    )


def fit_call(sources: Sequence[str], config: Config) -> Config:
    """Refuse a call that is longer than a model has positions, before anything is loaded or run.

    Returns the config with a vocabulary that all of them have, where it names none. An engine is
    not asked: its own profiles say what it takes, and its graph is not there.

    Raises:
        NirvanaError: the call is longer than what the checkpoint's config, the export or the
            graph's table of positions says.
    """
    counts = [config.num_ids]
    for source in sources:
        positions, num_ids = _read_limits(source)
        config.check_positions(positions, source)
        counts += [] if num_ids is None else [num_ids]
    return replace(config, vocab_size=min(counts)) if config.vocab_size is None else config


def _read_limits(source: str) -> tuple[int | None, int | None]:
    """Return how many positions and token ids a model has; None for what cannot be told."""
    kind = find_kind(source)
    if kind == "checkpoint":
        from transformers import AutoConfig

        from pruning.checkpoints.config_file import read_config_file
        from pruning.checkpoints.model_source import fetch_model, load_stock_model
        from pruning.tasks.position_limit import count_config_positions

        folder = fetch_model(source)
        loaded = load_stock_model(AutoConfig, str(folder))  # which refuses code of the folder
        num_ids = getattr(loaded.get_text_config(), "vocab_size", None)
        return count_config_positions(read_config_file(folder)), num_ids
    if kind == "onnx":
        graph = find_graph(Path(source))
        return find_max_length(graph), find_id_limits(graph).get("input_ids")
    return None, None


def find_graph(path: Path) -> Path:
    """Return the ONNX file of a path: the file itself, or the one graph of an export's folder."""
    if not path.is_dir():
        return path
    graph = path / "model.onnx"
    if graph.is_file():
        return graph
    found = ", ".join(sorted(file.name for file in path.glob("*.onnx")))
    raise NirvanaError(
        f"{path} has {found}: expected model.onnx, the whole model in one graph. Give one of the "
        "files to measure it by itself."
    )


def _open_torch(source: str, name: str, config: RunConfig) -> Runner:
    import torch

    from exporters.trace.load_source import load_source
    from profiles.runners.torch_runner import TorchRunner
    from pruning.checkpoints.model_source import fetch_model

    model = load_source(fetch_model(source))
    if config.provider != "cpu":
        if not torch.cuda.is_available():
            raise NirvanaError(
                f"{source} was asked to run on a GPU (provider {config.provider}), and torch "
                "finds none here. Leave provider at cpu."
            )
        cast(Any, model).to("cuda")
    torch.set_num_threads(config.num_threads or count_allowed_cpus())
    return TorchRunner(model, mode=config.torch_mode, name=name)
