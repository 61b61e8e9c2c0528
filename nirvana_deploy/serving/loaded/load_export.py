"""Loads the folder of an export, whose files are compared with their hashes first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from transformers import AutoConfig

from exporters.export_config import EXPORT_FILE
from exporters.graphs.onnx_files import check_export
from nirvana_deploy.serving.loaded.onnx_decoder import OnnxDecoder
from nirvana_deploy.serving.loaded.onnx_encoder import OnnxEncoder
from nirvana_deploy.serving.loaded.onnx_encoder_decoder import PARTS, OnnxEncoderDecoder
from nirvana_deploy.serving.loaded.onnx_model import OnnxModel
from pruning.checkpoints.config_file import list_architectures
from pruning.errors import NirvanaError
from pruning.strict_json import read_json


def load_export(folder: Path) -> OnnxModel:
    """Load the folder of an export: an encoder, or a decoder or encoder-decoder that generates.

    Raises:
        NirvanaError: a file is missing or not the one that was exported, or the model is of a kind
            that is not loaded.
    """
    check_export(folder)
    remedy = "Export the model again."
    graphs = read_json(folder / EXPORT_FILE, _Export, remedy=remedy)["graphs"]
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


def _choose_class(graphs: Mapping[str, _Graph]) -> type[OnnxModel]:
    if set(graphs) == set(PARTS):
        return OnnxEncoderDecoder
    names = [tensor["name"] for tensor in graphs["model"]["inputs"]]
    has_cache = any(name.startswith("past_key_values.") for name in names)
    return OnnxDecoder if has_cache else OnnxEncoder


class _Tensor(TypedDict):
    name: str


class _Graph(TypedDict):
    sha256: dict[str, str]
    inputs: list[_Tensor]


class _Export(TypedDict):
    graphs: dict[str, _Graph]
