"""Proves on a model that repacking computes what masking does: outputs, gradients, tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from pruning.checkpoints.model_source import quiet_transformers
from pruning.checkpoints.prunable_model import PrunableModel, is_whole
from pruning.cutting.proof_checks import Check, Pair, check_pair, fail
from pruning.cutting.smaller_model import make_smaller
from pruning.errors import NirvanaError
from pruning.plans.random_plans import draw_plans


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

    def to_json(self) -> dict[str, Any]:
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
        NirvanaError: the model was pruned before, or is not in float32.
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
