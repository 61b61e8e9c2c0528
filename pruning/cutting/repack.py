"""Makes a model physically smaller, in memory: what a plan does not keep is no longer there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from pruning.checkpoints.model_fingerprint import list_fingerprints
from pruning.checkpoints.prunable_model import PrunableModel, is_whole, refuse_absent_weights
from pruning.cutting.smaller_model import make_smaller
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.plans.plan_composition import compose
from pruning.plans.weight_fingerprint import check_weights
from pruning.wirings.wiring import Wiring


def read_dense(model: PreTrainedModel) -> PrunableModel:
    """Read and check a model.

    Raises:
        NirvanaError: the model cannot be pruned, or was pruned before.
    """
    source = read_model(model)
    if not is_whole(source.current):
        raise NirvanaError(
            f"Expected a dense model to learn gates on, this {type(model).__name__} was pruned "
            "before. Start from the dense model, or cut this one further with a plan: "
            "`nirvana prune MODEL --plan FILE`."
        )
    return source


def plan_for(model: PreTrainedModel, layers: Sequence[LayerPlan], **made_by: Any) -> PruningPlan:
    """Make a plan for a model from what each of its layers keeps.

    For a model that was pruned before, `layers` count its present units, and the plan is relative
    to the dense model that it came from.
    """
    source = read_model(model)
    current = replace(source.current, weights=list_fingerprints(model, source))
    return compose(current, layers, made_by)


def check_plan(model: PreTrainedModel, plan: PruningPlan, *, force: bool = False) -> str:
    """Refuse a plan that was made on other weights than the model's; return what was found.

    The message names the layer. With `force`, other weights are taken, and the plan's sizes alone
    have to fit.
    """
    refuse_absent_weights(model)
    source = read_model(model)
    plan.dims.check_same(source.dims)
    unread = "the dense weights of the model are not known"
    found = list_fingerprints(model, source)
    return check_weights(plan.weights, found, force=force, unread=unread)


def repack(
    model: PreTrainedModel, plan: PruningPlan, wiring: Wiring | None = None
) -> PreTrainedModel:
    """Return a new, smaller model that computes what `model` does under the plan's masks.

    `model` is without gates, dense or pruned before, and is left as it was. Where the config of
    its class can express the plan, the new model is of that class; elsewhere of a `Pruned` one.
    `wiring` is for trying a record; by default it is the one of the model's type. On which weights
    the plan was made is not looked at: those of a model that was repaired or trained for the plan
    are others (see `check_plan`).

    Raises:
        NirvanaError: the plan was made for other dimensions, or keeps what is gone already.
    """
    refuse_absent_weights(model)
    source = read_model(model, wiring)
    return make_smaller(model, source, plan)
