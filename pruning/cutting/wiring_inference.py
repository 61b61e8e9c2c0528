"""The wiring of a model: its type's record, or one inferred by structure and proven on the spot."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pruning.checkpoints.model_source import quiet_transformers
from pruning.checkpoints.prunable_model import PrunableModel, find_stock_class, read_wired_model
from pruning.checkpoints.pruned_config import keep_layers
from pruning.cutting.proof import Proof, prove_source
from pruning.cutting.proof_checks import draw_inputs, explain_unprovable
from pruning.errors import NirvanaError
from pruning.plans.plan import hash_config
from pruning.wirings.known_wirings import WIRINGS, explain_unwired, refuse_unsupported
from pruning.wirings.obstacles import (
    explain_failure,
    explain_names,
    find_place,
    join_names,
    list_obstacles,
)
from pruning.wirings.structure import find_module, has_experts, is_linear
from pruning.wirings.wiring import AttentionWiring, ConfigKeys, MlpWiring, StackWiring, Wiring
from pruning.wirings.wiring_patterns import (
    Match,
    find_residual_norms,
    list_counts,
    list_head_dims,
    match_attentions,
    match_mlps,
)

# Records that were inferred and proven in this process, by model class and config.
_PROVEN: dict[tuple[str, str], Wiring] = {}
_NUM_LAYERS = 2  # of the model on which a guess is proven
_LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_UNCLAIMED = "its blocks hold linear maps beside"
_STACK_LAYER_KEYS = {
    "encoder": ("encoder_layers", "num_encoder_layers", *_LAYER_KEYS),
    "decoder": ("decoder_layers", "num_decoder_layers", *_LAYER_KEYS),
}


def read_model(model: PreTrainedModel, wiring: Wiring | None = None) -> PrunableModel:
    """Read and check a model, dense or pruned before.

    `wiring` is for trying a record; by default it is the one of the model's type, or inferred.

    Raises:
        NirvanaError: its type cannot be pruned, or its modules are not as its type's.
    """
    return read_wired_model(model, find_or_infer_wiring if wiring is None else lambda _: wiring)


def prove(
    model: PreTrainedModel,
    wiring: Wiring | None = None,
    seed: int = 0,
    errors: list[Exception] | None = None,
) -> Proof:
    """Read a model and prove that repacking it is right; see `prove_source`.

    `wiring` is for trying a record.

    Raises:
        NirvanaError: the model was pruned before, is not in float32, or cannot be pruned.
    """
    return prove_source(model, read_model(model, wiring), seed, errors)


def find_or_infer_wiring(model: PreTrainedModel) -> Wiring:
    """Return the record of a model's type, or one that its structure suggests and a proof confirms.

    The proof runs on a model of the same class and config with two layers and random weights.
    `inferred_from` of such a record says what it was made from.

    Raises:
        NirvanaError: no record can describe the type (with the reason), nothing fits its blocks,
            or the proof failed.
    """
    refuse_unsupported(model.config, experts=has_experts(model))
    if model.config.model_type in WIRINGS:
        return WIRINGS[model.config.model_type]
    key = (type(model).__name__, hash_config(model.config.to_dict()))
    if key not in _PROVEN:
        _PROVEN[key] = _infer(model)
    return _PROVEN[key]


def _infer(model: PreTrainedModel) -> Wiring:
    reasons: list[str] = []
    cause: Exception | None = None
    for wiring in _guess(model):
        errors: list[Exception] = []
        try:
            short = _build_short(model, wiring)
            unprovable = explain_unprovable(short, 0, errors)
            if unprovable:
                reasons.append(_describe_unlike(model, wiring) or unprovable)
                cause = cause or next(iter(errors), None)
                continue
            proof = prove(short, wiring, errors=errors)
        except Exception as error:  # a guess may be wrong in any way
            reasons.append(_explain_error(model, wiring, error))
            cause = cause or error
            continue
        failed = next((check for check in proof.checks if not check.passed), None)
        if failed is None:
            return find_residual_norms(short, wiring, draw_inputs(short, "right", 0))
        error_of_it = errors[0] if errors and failed.max_abs_difference is None else None
        reasons.append(explain_failure(failed.plan, failed.what, error_of_it))
        cause = cause or error_of_it
    # Whatever torch or Python said is in the traceback, which --debug shows.
    raise NirvanaError(_explain_refusal(model, reasons)) from cause


def _explain_refusal(model: PreTrainedModel, reasons: list[str]) -> str:
    lists = list(_list_block_lists(model))
    lasts = [blocks[-1] for _, blocks in lists]
    obstacles = list_obstacles(model, lasts)
    if not obstacles and not reasons:
        named = []
        for path, blocks in lists:
            block, name = blocks[-1], _name_stack(model, path)
            attention = _list_claimed(match_attentions(block, name))
            named.append((block, attention, _list_claimed(match_mlps(block, name))))
        obstacles = [explain_names(named)]
    why = [*obstacles, *(reason for reason in reasons if reason.startswith(_UNCLAIMED))]
    why = list(dict.fromkeys(why or reasons))[:2]
    return explain_unwired(model.config.model_type, f": {'; '.join(why)}")


def _list_claimed(matches: list[Match]) -> set[str]:
    return {path for match in matches for path in _paths_of(match.part)}


def _explain_error(model: PreTrainedModel, wiring: Wiring, error: Exception) -> str:
    unclaimed = list(_list_unclaimed(model, wiring))
    if unclaimed:
        known = f"an attention and an MLP like those of {wiring.inferred_from}"
        return f"{_UNCLAIMED} {known} that no record accounts for ({join_names(unclaimed)})"
    unlike = _describe_unlike(model, wiring)
    if unlike:
        return unlike
    if isinstance(error, NirvanaError):  # said of the architecture, by `read_dims`
        return f"unlike in {wiring.inferred_from}, {str(error).rstrip('.')}"
    place = find_place(error) or type(model).__name__
    return (
        f"`{place}` does not build or run a version of {_NUM_LAYERS} layers, on which a guess is "
        "proven"
    )


def _list_unclaimed(model: PreTrainedModel, wiring: Wiring) -> Iterator[str]:
    for stack in wiring.stacks:
        blocks = find_module(model.base_model, stack.blocks)
        if not isinstance(blocks, nn.ModuleList):
            continue
        claimed = {path for part in stack.parts for path in _paths_of(part)}
        for name, module in blocks[-1].named_modules():
            if is_linear(module) and name not in claimed:
                yield name


def _describe_unlike(model: PreTrainedModel, wiring: Wiring) -> str:
    """Say which block has other linear maps than the last, as hybrid models have; "" for none."""
    for stack in wiring.stacks:
        blocks = find_module(model.base_model, stack.blocks)
        assert isinstance(blocks, nn.ModuleList)
        held = [{path for path, part in b.named_modules() if is_linear(part)} for b in blocks]
        for number, linears in enumerate(held):
            if linears != held[-1]:
                return (
                    f"its blocks are not alike, and a record describes them all: the linear maps "
                    f"{join_names(sorted(linears ^ held[-1]))} are in block {number} or in block "
                    f"{len(held) - 1}, and not in both"
                )
    return ""


def _paths_of(part: AttentionWiring | MlpWiring) -> list[str]:
    return [part.output, *(p.path for p in part.inputs)]


def _guess(model: PreTrainedModel) -> Iterator[Wiring]:
    """Yield every wiring that the names in the model allow."""
    candidates = []
    for path, blocks in _list_block_lists(model):
        guesses = list(_guess_stack(model, path, blocks))
        if guesses:
            candidates.append(guesses)
    for stacks in product(*candidates) if candidates else ():
        ordered = sorted(stacks, key=lambda pair: pair[0].name, reverse=True)  # encoder first
        likes = " and ".join(dict.fromkeys(like for _, like in ordered))
        yield Wiring(
            model_type=model.config.model_type,
            stacks=tuple(stack for stack, _ in ordered),
            inferred_from=likes,
        )


def _list_block_lists(model: PreTrainedModel) -> Iterator[tuple[str, nn.ModuleList]]:
    """Yield the outermost lists of like modules that hold linear maps."""
    found: list[str] = []
    for path, module in model.base_model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if not isinstance(module, nn.ModuleList) or inside or not len(module):
            continue
        alike = len({type(block) for block in module}) == 1
        if alike and any(is_linear(part) for part in module[0].modules()):
            found.append(path)
            yield path, module


def _guess_stack(
    model: PreTrainedModel, path: str, blocks: nn.ModuleList
) -> Iterator[tuple[StackWiring, str]]:
    block = blocks[-1]  # the first may be special
    name = _name_stack(model, path)
    attentions = match_attentions(block, name)
    crossing = [m for m in attentions if any(word in m.root.lower() for word in ("cross", "enc"))]
    plain = [m for m in attentions if m not in crossing]
    config = _find_keys(model.config, name, len(blocks))
    linears = [module for module in block.modules() if is_linear(module)]
    if config is None:
        return
    for own, mlp in product(plain, match_mlps(block, name)):
        for cross in crossing or (None,):
            assert isinstance(mlp.part, MlpWiring)
            likes = dict.fromkeys(m.like for m in (own, cross, mlp) if m is not None)
            yield (
                StackWiring(
                    name=name,
                    blocks=path,
                    attention=_complete(block, own),
                    cross_attention=None if cross is None else _complete(block, cross),
                    mlp=mlp.part,
                    config=config,
                    transposed=all(isinstance(linear, Conv1D) for linear in linears),
                ),
                " with ".join(likes),
            )


def _name_stack(model: PreTrainedModel, path: str) -> Any:
    if model.config.is_encoder_decoder:
        return "decoder" if "decoder" in path else "encoder"
    return "decoder" if model.can_generate() or "decoder" in path else "encoder"


def _find_keys(config: PretrainedConfig, name: str, num_layers: int) -> ConfigKeys | None:
    """Return the config's names of the counts; None where none holds the number of layers."""
    # An encoder-decoder's config numbers the layers of each stack, also where a class has only one.
    keys = _STACK_LAYER_KEYS[name]
    aliases = config.attribute_map
    layers = next((key for key in keys if getattr(config, key, None) == num_layers), None)
    if layers is None:
        return None
    wanted = {
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "neurons": "intermediate_size",
        "head_dim": "head_dim",
    }
    settable = not config.is_encoder_decoder  # two stacks may share a name, or not
    present = {
        what: aliases.get(key, key) if settable and hasattr(config, key) else ""
        for what, key in wanted.items()
    }
    return ConfigKeys(num_layers=aliases.get(layers, layers), **present)


def _complete(block: nn.Module, match: Match) -> AttentionWiring:
    """Return the matched attention with the counts and the head width that its core has."""
    assert isinstance(match.part, AttentionWiring)
    core = block.get_submodule(match.part.core)
    counts = tuple((name, what) for name, what in list_counts().items() if hasattr(core, name))
    head_dim = next((name for name in list_head_dims() if hasattr(core, name)), "head_dim")
    own_bias = find_module(core, match.part.bias_table) if match.part.bias_table else None
    return replace(
        match.part,
        counts=counts,
        head_dim=head_dim,
        shared_bias=match.part.shared_bias if own_bias is not None else "",
        bias_table=match.part.bias_table if own_bias is not None else "",
    )


def _build_short(model: PreTrainedModel, wiring: Wiring) -> PreTrainedModel:
    """Build a model of the same class with few layers and random weights, biases and norms too."""
    config = copy.deepcopy(model.config)
    for stack in wiring.stacks:
        number = getattr(config, stack.config.num_layers)
        keep_layers(config, stack, [i < _NUM_LAYERS for i in range(number)])
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(0)
        short: PreTrainedModel = find_stock_class(model)(config).float()
        for parameter in short.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    ready: PreTrainedModel = short.eval()
    return ready
