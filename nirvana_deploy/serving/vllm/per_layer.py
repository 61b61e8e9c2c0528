"""Form `per-layer`: the pruned checkpoint for vLLM's Transformers backend, layers as they are.

That backend sizes each layer's attention and its KV cache by the config's `per_layer_config`, and
takes the modules from the model class: from our plugin (`plugin.py`), or from code in the folder.
It refuses a layer without attention (vllm/model_executor/models/transformers/base.py,
`_create_attention_instances`), so such a layer gets one head of zeros.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from nirvana_deploy.serving.vllm.layer_sizes import read_sizes
from nirvana_deploy.serving.vllm.served_form import ServedForm
from pruning.checkpoints.checkpoint_files import CODE_FILE, describe_remote_code
from pruning.checkpoints.model_source import quiet_transformers
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject

# Whose pruned classes vLLM has run, with other heads and neurons in each layer.
PER_LAYER_TYPES = ("gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3")

# What vLLM asks for. More would have to be in its transformers, which may be older than ours.
_AUTOS = ("AutoModel", "AutoModelForCausalLM")


def make_per_layer(document: JsonObject, checkpoint: Path, *, remote_code: bool) -> ServedForm:
    """Return the form of a pruned checkpoint in which each layer keeps its own sizes.

    With `remote_code`, the folder carries the code that builds it.

    Raises:
        NirvanaError: the layers are alike, or the type is none that vLLM can size layer by layer.
    """
    if "nirvana" not in document:
        raise NirvanaError(
            f"{checkpoint} holds layers that are all alike, which vLLM reads from the config: "
            "package it with form uniform."
        )
    model_type = document["model_type"]
    new = copy.deepcopy(document)
    if model_type not in PER_LAYER_TYPES or not _carry_layer_sizes(new):
        raise NirvanaError(
            f"vLLM cannot read the sizes of single layers of {model_type}, only of: "
            f"{', '.join(PER_LAYER_TYPES)}. Prune it with allocation uniform and package it with "
            "form uniform."
        )
    layers = new["nirvana"]["stacks"][0]["layers"]
    empty = [number for number, layer in enumerate(layers) if not layer["num_heads"]]
    form = ServedForm(document=new, **_describe_code(new, remote_code))
    if not empty:
        return form
    sizes = read_sizes(document)
    held = list(sizes.layers)
    for number in empty:
        held[number] = replace(held[number], num_heads=1, num_kv_heads=1)
        layers[number].update(num_heads=1, num_kv_heads=1)
        _say_one_head(new["per_layer_config"], str(number), sizes.stack.config)
    return replace(form, sizes=sizes, held=tuple(held))


def _carry_layer_sizes(document: JsonObject) -> bool:
    """Write the layer sizes where vLLM reads them, in place; False where the config forbids them.

    Only packages carry them: transformers warns of every config that has them, and builds nothing
    from them.
    """
    from transformers import AutoConfig

    pruning = document["nirvana"]
    names = pruning["wiring"]["stacks"][0]["config"]
    document["allow_global_per_layer_attribute_access"] = True
    document["per_layer_config"] = {
        str(number): _describe_sizes(layer, names)
        for number, layer in enumerate(pruning["stacks"][0]["layers"])
    }
    config_class = type(AutoConfig.for_model(document["model_type"]))
    try:
        with quiet_transformers():
            config_class.from_dict(document)
    except Exception:  # the checks of a config class raise errors of any type
        return False
    return True


def _describe_sizes(layer: dict[str, object], names: dict[str, str]) -> dict[str, object]:
    counts = {"heads": layer["num_heads"], "kv_heads": layer["num_kv_heads"]}
    described: dict[str, object] = {
        names[what]: n for what, n in counts.items() if names[what] and n
    }
    if layer["num_neurons"]:
        described[names["neurons"]] = layer["num_neurons"]
    skip = ["attention"] * (not layer["num_heads"]) + ["mlp"] * (not layer["num_neurons"])
    return {**described, "skip": skip} if skip else described


def _describe_code(document: JsonObject, remote_code: bool) -> JsonObject:
    """Set the config's `auto_map`, in place, and return the code and the notes that go with it."""
    document.pop("auto_map", None)
    if not remote_code:
        note = (
            "needs nirvana-deploy in vLLM's environment: its plugin builds the layers "
            "(entry point vllm.general_plugins); no code in the folder"
        )
        return {"notes": (note,)}
    document["auto_map"], code = describe_remote_code(document["model_type"], _AUTOS)
    note = (
        f"WARNING: holds code ({CODE_FILE}), which runs in the server with --trust-remote-code: "
        "start it so only for folders whose hashes you have checked"
    )
    return {"code": {CODE_FILE: code}, "notes": (note,)}


def _say_one_head(per_layer: JsonObject, number: str, keys: Any) -> None:
    described = per_layer.setdefault(number, {})
    described.update({keys.heads: 1, keys.kv_heads: 1})
    skipped = [part for part in described.pop("skip", []) if part != "attention"]
    if skipped:
        described["skip"] = skipped
