"""Opens any artifact as a model that is called with a batch of tensors and returns its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from exporters.compare.artefact import MODEL
from exporters.compare.open_artefact import ArtefactKind, find_engine_dir, require_artefact
from exporters.export_config import EXPORT_FILE
from exporters.graphs.export_manifest import ExportedGraph, ExportManifest, check_companions
from exporters.io_names import is_past
from exporters.trace.load_source import load_source
from nirvana_deploy.certificate import check_certificate
from nirvana_deploy.serving.loaded.generating_model import OnnxDecoder
from nirvana_deploy.serving.loaded.onnx_encoder_decoder import PARTS, OnnxEncoderDecoder
from nirvana_deploy.serving.loaded.onnx_model import OnnxEncoder, OnnxModel
from pruning.checkpoints.config_file import CONFIG_FILE, list_architectures
from pruning.checkpoints.model_source import fetch_model, load_stock_model
from pruning.errors import NirvanaError
from pruning.tasks.position_limit import find_usable_length
from pruning.tasks.task import Task
from pruning.tasks.tasks import recognise_head


def load_export(folder: Path) -> OnnxModel:
    """Load the folder of an export: an encoder, or a decoder or encoder-decoder that generates.

    Raises:
        NirvanaError: a file is missing or not the one that was exported, or the model is of a kind
            that is not loaded.
    """
    manifest = ExportManifest.read(folder)
    manifest.check()
    check_certificate(folder)
    graphs = manifest.graphs
    if set(graphs) not in ({"model"}, set(PARTS)):
        raise NirvanaError(
            f"{folder} holds the graphs {', '.join(graphs)}; `load` takes one graph, model, or the "
            f"three of an encoder-decoder, {', '.join(PARTS)}. Export a decoder with graphs: "
            "merged."
        )
    try:
        config = load_stock_model(AutoConfig, str(folder))
    except NirvanaError as error:
        raise NirvanaError(
            f"{folder / CONFIG_FILE} cannot be read: {error} Export the model again."
        ) from error
    kind = _choose_class(graphs)
    # By a class's name transformers' pipelines know what it does.
    name = (list_architectures(config) or [kind.__name__])[0].removeprefix("Pruned")
    loaded: OnnxModel = type(name, (kind,), {})(folder, config)
    return loaded


def _choose_class(graphs: Mapping[str, ExportedGraph]) -> type[OnnxModel]:
    if set(graphs) == set(PARTS):
        return OnnxEncoderDecoder
    has_cache = any(is_past(name) for name in graphs["model"].inputs)
    return OnnxDecoder if has_cache else OnnxEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenModel:
    """A model that is ready to be called.

    Attributes:
        call: Takes a batch by name and returns the outputs by name.
        config: The model's config, with the names of its classes.
        task: What its head is for; None where that is none of our tasks.
        max_length: The most tokens that model and tokenizer take; None where neither says.
    """

    name: str
    kind: ArtefactKind
    call: Any
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    task: Task | None
    max_length: int | None


def open_model(source: str, texts: Path | None = None) -> OpenModel:
    """Open a checkpoint, an export's folder, an ONNX file or an engine's folder.

    `texts` is the folder with config.json and the tokenizer's files, where they are not beside
    the artifact.

    Raises:
        NirvanaError: it cannot be opened, or config.json or the tokenizer is missing.
    """
    kind = require_artefact(source)
    path = fetch_model(source) if kind == "checkpoint" else Path(source)
    folder = path if path.is_dir() else path.parent
    check_certificate(folder)
    home = texts or folder
    if not (home / CONFIG_FILE).is_file():
        raise NirvanaError(
            f"{home} has no {CONFIG_FILE}, which names the classes of the model {source}. Give the "
            "folder that has it and the tokenizer: --texts DIR."
        )
    check_companions(home)
    config = load_stock_model(AutoConfig, str(home))
    return OpenModel(
        name=source,
        kind=kind,
        call=_open(kind, path, config),
        config=config,
        tokenizer=load_stock_model(AutoTokenizer, str(home)),
        task=recognise_head(config),
        max_length=find_usable_length(home),
    )


def _open(kind: ArtefactKind, path: Path, config: PretrainedConfig) -> object:
    if kind == "checkpoint":
        return load_source(path)
    if kind == "engine":
        return _call_engine(find_engine_dir(path))
    folder = path if path.is_dir() else path.parent
    if (folder / EXPORT_FILE).is_file() and (path.is_dir() or path == folder / f"{MODEL}.onnx"):
        return load_export(folder)
    return OnnxEncoder(folder, config, file=f"{MODEL}.onnx" if path.is_dir() else path.name)


def _call_engine(folder: Path) -> Callable[..., dict[str, torch.Tensor]]:
    from exporters.compare.engine_artefact import open_engine

    graph = open_engine(folder).graphs[MODEL]

    def call(**batch: torch.Tensor) -> dict[str, torch.Tensor]:
        filled = {"token_type_ids": torch.zeros_like(batch["input_ids"]), **batch}
        taken = {spec.name: filled[spec.name].numpy() for spec in graph.inputs}
        return {name: torch.from_numpy(array) for name, array in graph.run(taken).items()}

    return call
