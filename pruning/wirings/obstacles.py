"""Says what in an architecture keeps a model from being pruned, from its modules and its code."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PretrainedConfig, PreTrainedModel

from pruning.wirings.known_wirings import WIRINGS
from pruning.wirings.structure import has_experts, is_linear

_INPUTS = {
    "input_features": "audio features",
    "input_values": "audio",
    "pixel_values_videos": "video",
}
_NUM_NAMES = 6  # that a reason lists
# What a plan of a proof did, by its name.
_TRIED = {
    "different widths": "fewer heads and neurons, other numbers in each layer",
    "empty and dropped sub-blocks": "an attention or an MLP taken out",
    "a dropped block": "a block taken out",
    "a dropped block of the last stack": "a block of the last stack taken out",
    "the same in each layer": "fewer heads and neurons, the same in each layer",
}


def list_obstacles(model: PreTrainedModel, blocks: Sequence[nn.Module]) -> list[str]:
    """Return what stands in the way, the most fundamental first; empty where nothing is seen.

    Args:
        blocks: the last block of each list of equal blocks.
    """
    towers = describe_towers(model)
    if towers:
        return [towers]
    if model.main_input_name not in ("input_ids", "pixel_values"):
        what = _INPUTS.get(model.main_input_name, "another kind of input")
        return [
            f"it reads {what} (`{model.main_input_name}`), and a wiring can only be proven on a "
            "model that reads tokens or images: there are no such inputs to probe it with"
        ]
    if not blocks:
        return [
            "it has no list of equal blocks with linear maps, of which each could keep its own "
            "number of heads and neurons"
        ]
    found = [*_list_shared(model, blocks)]
    for block in blocks:
        found += _list_in_block(block, model.config)
    return list(dict.fromkeys(found))


def describe_towers(model: PreTrainedModel) -> str:
    """Say which towers a model is made of, and which could be pruned alone; "" for one."""
    configs = _sub_configs(model.config)
    if len(configs) < 2:
        return ""
    towers = [f"{name} ({config.model_type})" for name, config in configs.items()]
    texts = [config for config in configs.values() if _reads_text(config)]
    # A Q-Former reads images by queries, and has a vocabulary all the same.
    texts = [config for config in texts if "qformer" not in config.model_type]
    said = f"it joins {len(towers)} towers, {', '.join(towers)}, and only a single one can be cut"
    for config in texts:
        path = _find_tower(model, config)
        known = config.model_type in WIRINGS
        alone = "can be pruned alone" if known else "has no record of its own, but may be tried"
        where = f": {_describe_rescue(model, path)}" if path else ""
        said += f"; the text model of type {config.model_type} {alone}{where}"
    return said


def _describe_rescue(model: PreTrainedModel, path: str) -> str:
    """Say how the text model at `path` becomes a model that can be scored, which takes a head."""
    if hasattr(model, "lm_head") and path.endswith("language_model"):
        return (
            f"put `model.{path}` and `model.lm_head` into an AutoModelForCausalLM of its config, "
            "save that to a folder of its own and prune it"
        )
    return f"save `model.{path}` to a folder of its own and prune that"


def explain_names(
    blocks: Sequence[tuple[nn.Module, set[str], set[str]]],
) -> str:
    """Say which linear maps of the blocks no record names.

    Args:
        blocks: each with its linear maps that some known attention has, and some known MLP.
    """
    said = []
    for block, attention, mlp in blocks:
        linears = [name for name, module in block.named_modules() if is_linear(module)]
        unknown = [name for name in linears if name not in attention | mlp]
        of_attention = [name for name in unknown if _is_in_attention(name)]
        of_mlp = [name for name in unknown if name not in of_attention]
        name = type(block).__name__
        if of_attention and not attention:
            said.append(
                f"no record names the linear maps of the attention in {name} "
                f"({join_names(of_attention)})" + _describe_layout(block, of_attention)
            )
        if of_mlp and not mlp:
            kind = " (a plain one, without a gate)" if len(of_mlp) == 2 else ""
            said.append(
                f"no record names the linear maps of the MLP{kind} in {name} ({join_names(of_mlp)})"
            )
        if linears and not attention and not of_attention:
            said.append(f"{name} has no attention whose queries, keys and values are linear maps")
        if attention and mlp and unknown:
            said.append(
                f"{name} holds linear maps beside a known attention and MLP that no record "
                f"accounts for ({join_names(unknown)})"
            )
        if not linears:
            said.append(f"{name} holds no linear maps")
    if not said:
        return "its config names no number of layers, or its blocks fit no record as a whole"
    return " and ".join(dict.fromkeys(said))


def explain_failure(plan: str, what: str, error: Exception | None) -> str:
    """Say in the architecture's words at which point a guessed wiring did not hold."""
    tried = _TRIED.get(plan, plan)
    if error is None:
        return (
            f"with {tried}, the smaller model does not compute what the masked one does ({what}): "
            "something that its modules share depends on what is cut"
        )
    place = find_place(error)
    if what == "repack":
        tensors = re.findall(r'size mismatch for (\S+?):|"(\S+?)"', str(error))
        names = [f"`{sized or missing}`" for sized, missing in tensors[:2]]
        at = f" at {' and '.join(names)}" if names else ""
        return (
            f"with {tried}, the class makes tensors of other shapes than the model has{at}: they "
            "depend on what is cut"
        )
    return (
        f"with {tried}, `{place or 'its forward pass'}` does not run: it computes with a size or "
        "a layer of the dense model that no record changes"
    )


def join_names(names: Sequence[str]) -> str:
    """Return names in a row, the first few of many."""
    more = f" and {len(names) - _NUM_NAMES} more" if len(names) > _NUM_NAMES else ""
    return ", ".join(names[:_NUM_NAMES]) + more


def find_place(error: BaseException) -> str:
    """Return the class and method of the model in which an error arose; "" elsewhere."""
    frames = list(traceback.walk_tb(error.__traceback__))
    for frame, _ in reversed(frames):
        module = frame.f_globals.get("__name__", "")
        if ".modeling_" in module and "modeling_pruned" not in module:
            if "modeling_utils" in module or "modeling_attn" in module:
                continue
            return str(frame.f_code.co_qualname)
    return ""


def _sub_configs(config: PretrainedConfig) -> dict[str, Any]:
    found = {
        name.removesuffix("_config"): value
        for name, value in vars(config).items()
        if isinstance(value, PreTrainedConfig)
    }
    return {name: value for name, value in found.items() if value.model_type}


def _reads_text(config: PretrainedConfig) -> bool:
    return getattr(config, "vocab_size", None) is not None and not hasattr(config, "patch_size")


def _find_tower(model: PreTrainedModel, config: PretrainedConfig) -> str:
    towers = [
        (path, getattr(module, "config", None))
        for path, module in model.named_modules()
        if path and isinstance(module, PreTrainedModel)
    ]
    # The one with this very config first: an encoder and a decoder may be of one type.
    found = [path for path, own in towers if own is config]
    alike = [path for path, own in towers if getattr(own, "model_type", "") == config.model_type]
    return next(iter([*found, *alike]), "")


def _list_shared(model: PreTrainedModel, blocks: Sequence[nn.Module]) -> Iterator[str]:
    """Yield what the layers share that has a part for each head."""
    heads = getattr(model.config, "num_attention_heads", None)
    relative = [
        f"`{name.rsplit('.', 1)[0]}`"
        for name, parameter in model.base_model.named_parameters()
        if not re.search(r"\.\d+\.", name) and "rel" in name.lower() and heads in parameter.shape
    ]
    if relative:
        yield (
            f"one relative position bias of all heads ({', '.join(relative)}) is shared by the "
            "layers, so that a layer with fewer heads would need its own part of it"
        )
    takes_slopes = any("alibi" in name.lower() for name in dir(model.base_model))
    if takes_slopes or any(_takes(block, "alibi") for block in blocks):
        yield (
            "its positions are ALiBi slopes that are made once, for all dense heads, and added in "
            "every layer"
        )


def _list_in_block(block: nn.Module, config: PretrainedConfig) -> Iterator[str]:
    paths = dict(block.named_modules())
    latent = [path for path in paths if re.search(r"kv_(a|b)_proj", path)]
    if latent:
        yield (
            "multi-head latent attention: the keys and values of all heads come out of one "
            f"compressed projection ({join_names(latent)}), which no record can split by heads"
        )
    if has_experts(block):
        yield "mixture-of-experts: the units of an expert see only the tokens routed to it"
    loose = _list_loose_weights(block)
    if loose:
        yield (
            f"weights of {type(block).__name__} are parameters of their own and no linear maps "
            f"({join_names(loose)}), which no record can name"
        )
    values = _list_values_of_heads(block, config)
    if values:
        yield (
            f"{type(block).__name__} has weights with one value for each head "
            f"({join_names(values)}), which no record cuts"
        )
    tables = [path for path, module in paths.items() if isinstance(module, nn.Embedding)]
    if tables:
        yield (
            f"every layer has a position bias of its own for all heads ({join_names(tables)}), "
            "which no record accounts for"
        )
    joint = [path for path in paths if _spans_heads(paths, path, config)]
    if joint:
        yield (
            f"the norms {', '.join(f'`{path}`' for path in joint)} run over all heads together, so "
            "that cutting some changes what is computed for the others"
        )
    for module in paths.values():
        size = _find_written_size(module)
        if size:
            yield (
                f"{type(module).__name__} writes the dense width of all heads (`{size}`) into the "
                "shapes of its forward pass, where a layer with fewer heads has less"
            )
        takes_cache = any(map(is_linear, module.children())) and _takes_cache(module)
        if takes_cache and hasattr(module, "layer_id") and not hasattr(module, "layer_idx"):
            yield (
                f"{type(module).__name__} keeps the number of its layer under another name "
                "(`layer_id`) than `layer_idx`, by which an attention that is taken out holds its "
                "place in the cache"
            )


def _list_loose_weights(block: nn.Module) -> list[str]:
    named = {
        f"{path}.{name}" if path else name
        for path, module in block.named_modules()
        if is_linear(module) or isinstance(module, (nn.Embedding, nn.modules.conv._ConvNd))
        for name, _ in module.named_parameters()
    }
    matrices = (name for name, p in block.named_parameters() if p.dim() > 1 and min(p.shape) > 1)
    return [name for name in matrices if name not in named]


def _list_values_of_heads(block: nn.Module, config: PretrainedConfig) -> list[str]:
    """Return the vectors with a value for each head, as attention sinks are."""
    heads = getattr(config, "num_attention_heads", None)
    return [
        f"{path}.{name}"
        for path, module in block.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if _is_in_attention(path)
        and not is_linear(module)
        and "norm" not in type(module).__name__.lower()
        and tuple(parameter.shape) == (heads,)
    ]


def _spans_heads(paths: dict[str, nn.Module], path: str, config: PretrainedConfig) -> bool:
    """Return whether a norm of an attention normalizes what several heads hold."""
    parent, _, name = path.rpartition(".")
    of_heads = re.fullmatch(r"(q|k|v|query|key|value)_?(layer_?)?norm|.*sub_?norm", name.lower())
    if not of_heads or not _is_in_attention(path):
        return False
    head_dim = getattr(paths[parent], "head_dim", None) or getattr(config, "head_dim", None)
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(head_dim, int):
        head_dim = config.hidden_size // heads if heads and hasattr(config, "hidden_size") else 0
    width = getattr(getattr(paths[path], "weight", None), "shape", (0,))[-1]
    return bool(head_dim) and width > head_dim


def _find_written_size(module: nn.Module) -> str:
    """Return the attribute with the width of all heads that a view, reshape or split names."""
    names = [
        name
        for name in ("embed_dim", "hidden_size", "all_head_size", "split_size", "d_model")
        if isinstance(getattr(module, name, None), int)
    ]
    has_heads = any(hasattr(module, name) for name in ("num_heads", "num_attention_heads"))
    if not names or not has_heads:
        return ""
    try:
        source = inspect.getsource(type(module))
    except (OSError, TypeError):
        return ""
    for name in names:
        if re.search(rf"\.(view|reshape|split)\([^\n]*\b{name}\b", source):
            return name
    return ""


def _takes(block: nn.Module, argument: str) -> bool:
    for module in block.modules():
        if not is_linear(module) and type(module).__module__.startswith("transformers."):
            parameters = inspect.signature(type(module).forward).parameters
            if argument in parameters:
                return True
    return False


def _takes_cache(module: nn.Module) -> bool:
    parameters = inspect.signature(type(module).forward).parameters
    return any(name.startswith(("layer_past", "past_key_value")) for name in parameters)


def _is_in_attention(path: str) -> bool:
    return re.search(r"att|self|cross|quer|qkv", path.lower()) is not None


def _describe_layout(block: nn.Module, paths: Sequence[str]) -> str:
    """Say that one linear map holds queries, keys and values, where it does."""
    for path in paths:
        weight = block.get_submodule(path).weight
        assert isinstance(weight, torch.Tensor)
        if max(weight.shape) > min(weight.shape) and re.search(r"qkv|in_proj|c_attn", path.lower()):
            return f": `{path}` fuses queries, keys and values in an order of its own"
    return ""
