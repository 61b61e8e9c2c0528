"""Proves on a model that repacking computes what masking does: outputs, gradients, tokens."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel

from pruning.checkpoints.model_source import quiet_transformers
from pruning.checkpoints.prunable_model import PrunableModel, is_whole
from pruning.cutting.proof_checks import (
    Check,
    Pair,
    check_pair,
    explain_unprovable,
    fail,
)
from pruning.cutting.smaller_model import make_smaller
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.wirings.wiring import Wiring

# How each layer of a plan is treated, in turn. "thin": some of everything; "one": a single query
# head of a single KV group; "bias": no unit left, the output's bias stays; "none": sub-block
# dropped; "gone": the whole block; "gone last": so in the last stack only.
KINDS: dict[str, tuple[str, ...]] = {
    "different widths": ("thin", "one", "groups", "thin"),
    "empty and dropped sub-blocks": ("none attention", "bias", "none mlp", "thin"),
    "a dropped block": ("gone", "thin", "one", "gone"),
    "a dropped block of the last stack": ("thin", "gone last", "thin", "one"),
    "the same in each layer": ("uniform",),
}


def draw_plans(dims: DenseDims, wiring: Wiring, seed: int) -> dict[str, PruningPlan]:
    """Return a random plan of each kind, by its name."""
    rng = random.Random(seed)
    return {name: _draw_plan(dims, wiring, kinds, rng) for name, kinds in KINDS.items()}


def _draw_plan(
    dims: DenseDims, wiring: Wiring, kinds: tuple[str, ...], rng: random.Random
) -> PruningPlan:
    layers: list[LayerPlan] = []
    for stack, stack_dims in zip(wiring.stacks, dims.stacks, strict=True):
        is_last = stack is wiring.stacks[-1]
        drawn = [
            _draw_layer(_read_kind(kinds[number % len(kinds)], is_last), stack_dims, rng)
            for number in range(stack_dims.num_layers)
        ]
        fixed = stack.keep_first or stack.numbered_if
        if all(layer.dropped for layer in drawn) or (drawn[0].dropped and fixed):
            drawn[0] = _draw_layer("thin", stack_dims, rng)
        if stack.numbered_if:
            drawn = [
                _draw_layer("thin", stack_dims, rng) if layer.dropped else layer for layer in drawn
            ]
        layers += drawn
    return PruningPlan(
        dims=dims, layers=tuple(layers), config_hash="", made_by={"method": "random"}
    )


def _read_kind(kind: str, is_last: bool) -> str:
    if kind == "gone last":
        return "gone" if is_last else "thin"
    return kind


def _draw_layer(kind: str, dims: StackDims, rng: random.Random) -> LayerPlan:
    if kind == "gone":
        return LayerPlan.drop_block()
    heads = _draw_heads(kind, dims, rng)
    cross = _draw_heads(kind, dims, rng) if dims.cross_attention else None
    return LayerPlan(
        kept_heads=heads, kept_neurons=_draw_neurons(kind, dims, rng), kept_cross_heads=cross
    )


def _draw_heads(kind: str, dims: StackDims, rng: random.Random) -> tuple[int, ...] | None:
    size, groups = dims.heads_per_group, dims.num_kv_heads
    if kind == "none attention":
        return None
    if kind == "bias":
        return ()
    if kind == "uniform":  # the same heads, as T5's shared bias asks
        return tuple(range(size * max(1, groups // 2)))
    if kind == "one":
        return (rng.randrange(dims.num_heads),)
    kept_groups = range(groups) if kind == "groups" else _sample(groups, rng)
    per_group = max(1, size // 2) if kind == "groups" else rng.randint(1, size)
    return tuple(
        sorted(g * size + h for g in kept_groups for h in rng.sample(range(size), per_group))
    )


def _draw_neurons(kind: str, dims: StackDims, rng: random.Random) -> tuple[int, ...] | None:
    if kind == "none mlp":
        return None
    if kind == "bias":
        return ()
    if kind == "uniform":
        return tuple(range(0, dims.intermediate_size, 2))
    return tuple(sorted(rng.sample(range(dims.intermediate_size), _odd(dims, rng))))


def _odd(dims: StackDims, rng: random.Random) -> int:
    """Return an odd number of neurons: widths that no hardware likes must be right too."""
    return min(dims.intermediate_size, rng.randrange(1, dims.intermediate_size, 2) | 1)


def _sample(number: int, rng: random.Random) -> list[int]:
    """Return some of `number` units, at least one, and not all where there are more."""
    return rng.sample(range(number), rng.randint(1, max(1, number - 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """All checks of a model. It holds when every one that could be made has passed."""

    model_type: str
    inferred_from: str
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Return whether no check failed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {**asdict(self), "holds": self.holds}


def prove_source(
    model: PreTrainedModel,
    source: PrunableModel,
    seed: int = 0,
    errors: list[Exception] | None = None,
) -> Proof:
    """Compare random repacked versions of a dense model with the model under their masks.

    The plans differ in each layer: odd widths, one head, one KV group, empty and dropped
    sub-blocks, dropped blocks, and one that is the same in each layer. Compared are outputs (fp32,
    left and right padding, each attention implementation that the model has), gradients, and
    greedy tokens with a dynamic and a static cache. `model` is left as it was. Whatever
    ends a check is added to `errors`.

    Raises:
        NirvanaError: the model was pruned before, is not in float32, does not run on the inputs
            that are drawn, or gives other outputs for the same inputs.
    """
    if not is_whole(source.current):
        raise NirvanaError("Expected a dense model to prove, this one was pruned before.")
    if model.dtype not in (torch.float32, torch.float64):
        raise NirvanaError(
            f"Expected a model in float32 to prove, this one is in {model.dtype}, whose rounding "
            "would hide errors. Load it with dtype=torch.float32."
        )
    checks: list[Check] = []
    errors = [] if errors is None else errors
    with _evaluating(model), quiet_transformers():
        unprovable = explain_unprovable(model, seed, errors)
        if unprovable:
            raise NirvanaError(
                f"Nothing can be proven: {unprovable}. Where only the head is in the way, save "
                "`model.base_model` to a folder of its own and prove that."
            ) from next(iter(errors), None)
        for name, plan in draw_plans(source.dims, source.wiring, seed).items():
            try:
                smaller = make_smaller(model, source, plan)
            except Exception as error:  # a wiring that is tried may be wrong in any way
                checks.append(fail(name, "repack", error))
                errors.append(error)
                continue
            checks += check_pair(Pair(name, model, smaller, plan, source, errors), seed)
    return Proof(
        model_type=source.wiring.model_type,
        inferred_from=source.wiring.inferred_from,
        checks=tuple(checks),
    )


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Keep the model's mode and attention implementation, which the checks change."""
    was_training, attention = model.training, model.config._attn_implementation
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        with contextlib.suppress(ValueError, ImportError):
            model.set_attn_implementation(attention)
