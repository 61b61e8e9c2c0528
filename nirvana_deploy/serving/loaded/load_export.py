"""Loads the folder of an export, whose files are compared with their hashes first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import AutoConfig

from exporters.graphs.export_manifest import ExportedGraph, ExportManifest
from exporters.io_names import is_past
from nirvana_deploy.serving.loaded.onnx_decoder import OnnxDecoder
from nirvana_deploy.serving.loaded.onnx_encoder import OnnxEncoder
from nirvana_deploy.serving.loaded.onnx_encoder_decoder import PARTS, OnnxEncoderDecoder
from nirvana_deploy.serving.loaded.onnx_model import OnnxModel
from pruning.checkpoints.config_file import list_architectures
from pruning.errors import NirvanaError


def load_export(folder: Path) -> OnnxModel:
    """Load the folder of an export: an encoder, or a decoder or encoder-decoder that generates.

    Raises:
        NirvanaError: a file is missing or not the one that was exported, or the model is of a kind
            that is not loaded.
    """
    manifest = ExportManifest.read(folder)
    manifest.check()
    graphs = manifest.graphs
    if set(graphs) not in ({"model"}, set(PARTS)):
        raise NirvanaError(
            f"{folder} holds the graphs {', '.join(graphs)}; `load` takes one graph, model, or the "
            f"three of an encoder-decoder, {', '.join(PARTS)}. Export a decoder with graphs: "
            "merged."
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each type of model has failures of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise NirvanaError(
            f"{folder / 'config.json'} cannot be read: {reason} Export the model again."
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
