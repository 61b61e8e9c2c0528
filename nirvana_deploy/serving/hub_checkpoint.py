"""Packages a checkpoint for servers that read Hugging Face folders: vLLM and TensorRT-LLM.

Nothing of theirs runs here: what they can hold is checked against what their sources say they read.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nirvana_deploy.new_folder import refuse_used_folder
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.package_manifest import write_manifest
from nirvana_deploy.serving.package_result import PackageResult
from nirvana_deploy.serving.package_sources import Sources
from pruning.checkpoints.checkpoint_files import check_files
from pruning.errors import NirvanaError

_COPIED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
# Ours, for `load` and for pruning again; a server reads none of it.
_LEFT_OUT = ("plan.json", "manifest.json")
_ALTERNATIVES = (
    "Prune it with allocation uniform, so that all layers are alike, or package its ONNX export "
    "for genai or triton, which take any plan."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubStack:
    """What a server takes.

    Attributes:
        name: for people.
        architectures: its own implementations, of those that we prune. vLLM:
            vllm/model_executor/models/registry.py; TensorRT-LLM:
            tensorrt_llm/_torch/models/__init__.py.
        neuron_multiple: what MLP widths are multiples of.
    """

    name: str
    architectures: frozenset[str]
    neuron_multiple: int = 1


STACKS = {
    "vllm": HubStack(
        name="vLLM",
        architectures=frozenset(
            {
                "FalconForCausalLM",
                "GPT2LMHeadModel",
                "GPTNeoXForCausalLM",
                "Gemma2ForCausalLM",
                "Gemma3ForCausalLM",
                "LlamaForCausalLM",
                "MistralForCausalLM",
                "OPTForCausalLM",
                "Phi3ForCausalLM",
                "Qwen2ForCausalLM",
                "Qwen3ForCausalLM",
            }
        ),
    ),
    "tensorrt-llm": HubStack(
        name="TensorRT-LLM",
        architectures=frozenset(
            {
                "Gemma3ForCausalLM",
                "LlamaForCausalLM",
                "MistralForCausalLM",
                "Qwen2ForCausalLM",
                "Qwen3ForCausalLM",
            }
        ),
        neuron_multiple=256,
    ),
}


def package_checkpoint(sources: Sources, out_dir: Path, config: PackageConfig) -> PackageResult:
    """Copy a checkpoint that the server can hold, without what only this package reads.

    Raises:
        NirvanaError: the folder is no checkpoint or was changed, or the server cannot hold the
            model: the message names layer and limit, and what to do instead.
    """
    stack = STACKS[config.to]
    for name in ("dense", "engine", "checkpoint"):
        if getattr(sources, name) is not None:
            raise NirvanaError(
                f"A package for {stack.name} holds one checkpoint, and --{name} is something else. "
                "Leave it out, or package each on its own."
            )
    checkpoint = sources.onnx
    document = _read_config(checkpoint)
    if (checkpoint / "manifest.json").is_file():
        check_files(checkpoint)
    _check_alike(document, stack)
    _check_architecture(document, stack)
    _check_widths(document, stack)
    refuse_used_folder(out_dir)
    folder = out_dir / config.model_name
    folder.mkdir(parents=True)
    for pattern in _COPIED:
        for path in sorted(checkpoint.glob(pattern)):
            if path.name not in _LEFT_OUT:
                shutil.copyfile(path, folder / path.name)
    if not list(folder.glob("*.safetensors")):
        raise NirvanaError(f"{checkpoint} holds no *.safetensors. Save it by save_pretrained.")
    if not (folder / "tokenizer.json").is_file() and not list(folder.glob("*.model")):
        raise NirvanaError(
            f"{checkpoint} holds no tokenizer, and {stack.name} reads text by it. Save the "
            "checkpoint with its tokenizer."
        )
    write_manifest(out_dir, config, ("transformers",))
    files = sorted(path for path in out_dir.rglob("*") if path.is_file())
    return PackageResult(
        folder=config.model_name,
        models=(config.model_name,),
        files=tuple(path.relative_to(out_dir).as_posix() for path in files),
    )


def _read_config(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "config.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NirvanaError(
            f"{path} cannot be read: {error}. Expected the folder of a checkpoint, dense or pruned."
        ) from error
    return document


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
                        f"{_ALTERNATIVES}"
                    )
                if layer[key] != layers[0][key]:
                    raise NirvanaError(
                        f"Layer {number} has {layer[key]} {what} and layer 0 has "
                        f"{layers[0][key]}; {stack.name} reads one number for all layers from the "
                        f"config. {_ALTERNATIVES}"
                    )
    raise NirvanaError(
        f"{document['architectures'][0]} ties the width of a head to the number of heads, so that "
        f"{stack.name} cannot be told of fewer. {_ALTERNATIVES}"
    )


def _check_architecture(document: dict[str, Any], stack: HubStack) -> None:
    name = (document.get("architectures") or ["none"])[0]
    if name not in stack.architectures:
        raise NirvanaError(
            f"{stack.name} has no {name} of those that are known here: "
            f"{', '.join(sorted(stack.architectures))}. {_ALTERNATIVES}"
        )


def _check_widths(document: dict[str, Any], stack: HubStack) -> None:
    width = document.get("intermediate_size")
    if isinstance(width, int) and width % stack.neuron_multiple:
        raise NirvanaError(
            f"Each layer has {width} neurons; {stack.name} wants a multiple of "
            f"{stack.neuron_multiple}. Prune it with constraints.neuron_multiple "
            f"{stack.neuron_multiple}."
        )
