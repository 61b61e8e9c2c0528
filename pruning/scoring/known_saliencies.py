"""All saliencies by name, a user's own by its import path, and the check of what they return."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, cast

import torch

from pruning.errors import NirvanaError
from pruning.own_code import import_own
from pruning.plans.sub_block import SubBlock
from pruning.scoring.fisher import Fisher, Taylor
from pruning.scoring.flap import Flap
from pruning.scoring.model_passes import leave_as_found
from pruning.scoring.nirvana import Nirvana
from pruning.scoring.obs import Obs
from pruning.scoring.saliency import Saliency, Scores, ScoringTask
from pruning.scoring.unit_weights import Magnitude

SALIENCIES: dict[str, type[Saliency]] = {
    "obs": Obs,
    "nirvana": Nirvana,
    "fisher": Fisher,
    "taylor": Taylor,
    "flap": Flap,
    "magnitude": Magnitude,
}

_OWN = "package.module:Name, of a class without arguments or of an instance"


def find_saliency(name: str) -> Saliency:
    """Return the saliency of a known name or of an import path, `package.module:Name`.

    Raises:
        NirvanaError: the name is unknown, the path cannot be imported, or what is there does not
            score.
    """
    if ":" in name:
        return _import_saliency(name)
    if name not in SALIENCIES:
        nearest = get_close_matches(name, SALIENCIES, n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise NirvanaError(
            f"Saliency {name!r} is unknown.{hint} Known: {', '.join(SALIENCIES)}; your own goes by "
            f"its import path, {_OWN}."
        )
    return SALIENCIES[name]()


def _import_saliency(path: str) -> Saliency:
    found = import_own(path, "saliency", _OWN)
    if isinstance(found, type):
        found = _make_instance(found, path)
    if not callable(getattr(found, "score", None)):
        kind = found.__name__ if callable(found) else type(found).__name__
        raise NirvanaError(
            f"The saliency {path!r} ({kind}) has no method `score`. Expected "
            "score(task: ScoringTask) -> a dict of a tensor [num_units] for each sub-block."
        )
    return cast(Saliency, found)


def _make_instance(found: type, path: str) -> object:
    try:
        return found()
    except TypeError as error:
        raise NirvanaError(
            f"The saliency {path!r} cannot be made without arguments: {error}. Make an instance in "
            "its module, and give the path of that."
        ) from error


def score_units(saliency: Saliency, task: ScoringTask) -> Scores:
    """Score all units, check the result, and leave the model as it was.

    Returns:
        A tensor [num_units] in float32 for every sub-block, in the order of the task's sites.

    Raises:
        NirvanaError: a sub-block is missing or unknown, or its scores have the wrong shape or are
            not finite.
    """
    with leave_as_found(task.model):
        scores: object = saliency.score(task)
    name = type(saliency).__name__
    if not isinstance(scores, Mapping):
        raise NirvanaError(
            f"{name} returned a {type(scores).__name__}. Expected a dict of a tensor [num_units] "
            "for each sub-block."
        )
    _check_sub_blocks(scores, task, name)
    return {
        sub_block: _check_tensor(scores[sub_block], site.num_units, f"{name}, {sub_block.name}")
        for sub_block, site in task.sites.items()
    }


def _check_sub_blocks(scores: Mapping[Any, Any], task: ScoringTask, name: str) -> None:
    missing = [sub_block.name for sub_block in task.sites if sub_block not in scores]
    if missing:
        raise NirvanaError(
            f"{name} gave no scores for {_shorten(missing)}. Expected all "
            f"{len(task.sites)} sub-blocks of `task.sites`."
        )
    unknown = [
        key.name if isinstance(key, SubBlock) else repr(key)
        for key in scores
        if key not in task.sites
    ]
    if unknown:
        raise NirvanaError(
            f"{name} gave scores for {_shorten(unknown)}, which the model does not have. Expected "
            "the keys of `task.sites`."
        )


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _check_tensor(scores: object, num_units: int, place: str) -> torch.Tensor:
    if not isinstance(scores, torch.Tensor):
        raise NirvanaError(
            f"{place}: the scores are a {type(scores).__name__}. Expected a tensor [{num_units}]."
        )
    if scores.shape != (num_units,):
        raise NirvanaError(
            f"{place}: the scores have the shape {list(scores.shape)}. Expected [{num_units}], one "
            "number a unit."
        )
    wrong = (~scores.isfinite()).nonzero().flatten().tolist()
    if wrong:
        raise NirvanaError(
            f"{place}: {len(wrong)} of {num_units} scores are not finite, the first of unit "
            f"{wrong[0]} ({scores[wrong[0]].item()}). Where the model is in float16, load it in "
            "float32 or bfloat16 to score it."
        )
    return scores.detach().float()
