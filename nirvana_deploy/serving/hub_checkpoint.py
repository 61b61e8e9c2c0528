"""Packages a checkpoint for servers that read Hugging Face folders: vLLM and TensorRT-LLM.

Layers that are alike are a plain checkpoint; the other forms are in `vllm/`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from nirvana_deploy.serving.package_config import (
    HUB_STACKS,
    CheckpointSources,
    HubStack,
    PackageConfig,
)
from nirvana_deploy.serving.package_manifest import PackageResult, write_manifest
from nirvana_deploy.serving.vllm.block_configs import make_deci
from nirvana_deploy.serving.vllm.held_sizes import make_padded
from nirvana_deploy.serving.vllm.padded_weights import plan_tensors, write_padded
from nirvana_deploy.serving.vllm.padding_report import count_padding
from nirvana_deploy.serving.vllm.per_layer import make_per_layer
from nirvana_deploy.serving.vllm.served_form import ServedForm, name_stock
from pruning.checkpoints.checkpoint_files import check_files
from pruning.checkpoints.checkpoint_source import INDEX_FILE
from pruning.checkpoints.config_file import read_config_file
from pruning.errors import NirvanaError
from pruning.write_aside import refuse_used_folder

_FULL, _SLIDING = "full_attention", "sliding_attention"


def add_older_names(document: dict[str, Any]) -> dict[str, Any]:
    """Return a config that says the rotary base and scaling, and the type, by older names too.

    transformers 5 saves them in `rope_parameters` and `dtype`. TensorRT-LLM 1.x has transformers
    4.57 and asks for `rope_theta`, `rope_scaling` and `torch_dtype`: of what it does not find it
    says nothing, and takes 10,000 for the base (tensorrt_llm/_torch/attention_backend/
    interface.py, `RopeParams.from_config`).
    """
    new = dict(document)
    if "dtype" in document:
        new.setdefault("torch_dtype", document["dtype"])
    rope = document.get("rope_parameters")
    if not rope:
        return new
    if _SLIDING in rope:
        new.setdefault("rope_local_base_freq", rope[_SLIDING]["rope_theta"])
    rope = rope.get(_FULL, rope)
    new.setdefault("rope_theta", rope["rope_theta"])
    if rope.get("rope_type", "default") != "default":
        new.setdefault("rope_scaling", {k: v for k, v in rope.items() if k != "rope_theta"})
    return new


_WEIGHTS = ("*.safetensors", INDEX_FILE)
_COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja")
# Ours, for `load` and for pruning again, which a server does not read; and what is written anew.
_LEFT_OUT = ("plan.json", "manifest.json", "config.json", INDEX_FILE)


def package_checkpoint(
    sources: CheckpointSources, out_dir: Path, config: PackageConfig
) -> PackageResult:
    """Copy a checkpoint that the server can hold, without what only this package reads.

    Raises:
        NirvanaError: the folder is no checkpoint or was changed, or the server cannot hold the
            model: the message names layer and limit, and what to do instead.
    """
    stack = HUB_STACKS[config.to]
    checkpoint = sources.checkpoint
    document = _read_config(checkpoint)
    if (checkpoint / "manifest.json").is_file():
        check_files(checkpoint)
    form = _make_form(document, checkpoint, stack, config)
    _check_companions(checkpoint, stack)
    refuse_used_folder(out_dir)
    folder = out_dir / config.model_name
    folder.mkdir(parents=True)
    notes = form.notes
    if form.sizes is None:
        _copy(checkpoint, folder, _WEIGHTS)
    else:
        weights = plan_tensors(checkpoint, form.sizes, form.held, form.left_out)
        write_padded(weights, folder)
        report = count_padding(weights, form.sizes, form.held)
        report.write(out_dir)
        notes = (*notes, report.headline())
    _copy(checkpoint, folder, _COMPANIONS)
    _write_texts(folder, form, stack)
    write_manifest(out_dir, config, ("transformers",))
    files = sorted(path for path in out_dir.rglob("*") if path.is_file())
    return PackageResult(
        folder=config.model_name,
        models=(config.model_name,),
        files=tuple(path.relative_to(out_dir).as_posix() for path in files),
        notes=notes,
    )


def _make_form(
    document: dict[str, Any], checkpoint: Path, stack: HubStack, config: PackageConfig
) -> ServedForm:
    if config.form != "uniform":
        stack.check_architecture(name_stock(document))
    if config.form == "per-layer":
        return make_per_layer(document, checkpoint, remote_code=config.remote_code)
    if config.form == "deci":
        return make_deci(
            document,
            checkpoint,
            server=stack.name,
            neuron_multiple=stack.neuron_multiple,
            takes_biases=stack.takes_biases,
            remote_code=config.remote_code,
        )
    if stack.per_layer:
        _check_windows(document, stack)
    if config.form == "padded":
        ties_width = name_stock(document) in stack.ties_head_width
        return make_padded(document, stack.neuron_multiple, ties_head_width=ties_width)
    _check_alike(document, stack)
    stack.check_architecture(name_stock(document))
    _check_head_width(document, stack)
    _check_widths(document, stack)
    return ServedForm(document=document)


def _check_companions(checkpoint: Path, stack: HubStack) -> None:
    if not list(checkpoint.glob("*.safetensors")):
        if list(checkpoint.glob("*.onnx")):
            raise NirvanaError(
                f"{checkpoint} holds an export, and {stack.name} reads a checkpoint. Give the "
                "folder of the checkpoint that it was exported from."
            )
        raise NirvanaError(f"{checkpoint} holds no *.safetensors. Save it by save_pretrained.")
    if not (checkpoint / "tokenizer.json").is_file() and not list(checkpoint.glob("*.model")):
        raise NirvanaError(
            f"{checkpoint} holds no tokenizer, and {stack.name} reads text by it. Save the "
            "checkpoint with its tokenizer."
        )


def _copy(checkpoint: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in sorted(checkpoint.glob(pattern)):
            if path.name not in _LEFT_OUT or pattern in _WEIGHTS:
                shutil.copyfile(path, folder / path.name)


def _write_texts(folder: Path, form: ServedForm, stack: HubStack) -> None:
    document = form.document if stack.per_layer else add_older_names(form.document)
    texts = {**form.code, "config.json": json.dumps(document, indent=2) + "\n"}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _read_config(checkpoint: Path) -> dict[str, Any]:
    if checkpoint.is_file():
        raise NirvanaError(
            f"{checkpoint} is a file: vLLM and TensorRT-LLM read a checkpoint. Give the "
            "checkpoint's folder, dense or pruned."
        )
    remedy = "Expected the folder of a checkpoint, dense or pruned."
    return read_config_file(checkpoint, remedy=remedy)


def _check_alike(document: dict[str, Any], stack: HubStack) -> None:
    """Raise NirvanaError naming the first layer that is not as the first is."""
    pruned = document.get("nirvana")
    if pruned is None:
        return
    names = {"num_heads": "heads", "num_kv_heads": "KV heads", "num_neurons": "neurons"}
    for layers in (part["layers"] for part in pruned["stacks"]):
        for number, layer in enumerate(layers):
            for key, what in names.items():
                if key not in layer:
                    continue
                if not layer[key]:
                    raise NirvanaError(
                        f"Layer {number} has no {what}, and {stack.name} gives every layer some. "
                        f"{stack.alternatives}"
                    )
                if layer[key] != layers[0][key]:
                    raise NirvanaError(
                        f"Layer {number} has {layer[key]} {what} and layer 0 has "
                        f"{layers[0][key]}; {stack.name} reads one number for all layers from the "
                        f"config. {stack.alternatives}"
                    )
    raise NirvanaError(
        f"{document['architectures'][0]} ties the width of a head to the number of heads, so that "
        f"{stack.name} cannot be given fewer. {stack.alternatives}"
    )


def _check_windows(document: dict[str, Any], stack: HubStack) -> None:
    """Raise NirvanaError where vLLM's own class slides all layers' windows, the model's some."""
    first, layers = document.get("max_window_layers"), document.get("num_hidden_layers")
    if document.get("use_sliding_window") and first is not None and first != layers:
        raise NirvanaError(
            f"The model has a sliding window from layer {first} of {layers} on, and "
            f"{stack.name}'s {name_stock(document)} has one in all layers or in none. "
            "Package a plan that differs by layer with form per-layer, whose backend takes it."
        )


def _check_head_width(document: dict[str, Any], stack: HubStack) -> None:
    heads, width = document.get("num_attention_heads"), document.get("head_dim")
    if name_stock(document) not in stack.ties_head_width or not width:
        return
    if heads * width != document["hidden_size"]:
        raise NirvanaError(
            f"Each layer has {heads} heads of {width} channels, and {stack.name}'s "
            f"{name_stock(document)} makes them {document['hidden_size'] // heads} wide: the "
            f"hidden size, {document['hidden_size']}, by the heads. Package it with form padded, "
            "which fills up the heads, or prune neurons and blocks alone."
        )


def _check_widths(document: dict[str, Any], stack: HubStack) -> None:
    width, hidden = document.get("ffn_hidden_size"), document.get("hidden_size")
    if name_stock(document) in stack.ties_mlp_width and width and width != 4 * int(hidden or 0):
        raise NirvanaError(
            f"Each layer has {width} neurons, and {stack.name}'s {name_stock(document)} makes them "
            f"{4 * int(hidden or 0)}: four times the hidden size. Prune blocks alone, or package "
            "its ONNX export for genai or triton."
        )
    width = document.get("intermediate_size")
    if isinstance(width, int) and width % stack.neuron_multiple:
        raise NirvanaError(
            f"Each layer has {width} neurons; {stack.name} wants a multiple of "
            f"{stack.neuron_multiple}. Prune it with constraints.neuron_multiple "
            f"{stack.neuron_multiple}, or package it with form padded."
        )
