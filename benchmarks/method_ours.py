"""This project's own default, one-shot: the method that the peers are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from method_subjects import COST, NEURON_MULTIPLE, Pruned, Subject

from pruning.allocation.allocation_config import KlKnapsack, allocate
from pruning.allocation.constraints import Constraints
from pruning.allocation.levels import DamageCurve
from pruning.oneshot.oneshot_config import LeastSquares
from pruning.plans.sub_block import SubBlock
from pruning.repair.repair import prune_in_place
from pruning.scoring.kl_curves import measure_curves
from pruning.scoring.known_saliencies import score_units
from pruning.scoring.obs import Obs
from pruning.scoring.saliency import Scores

DAMPING = 1e-2
NUM_MEASURED = 4  # calibration batches that the curves are measured on


@dataclass(frozen=True, slots=True)
class _Scored:
    scores: Scores
    curves: Mapping[SubBlock, DamageCurve]


_SCORED: dict[tuple[str, int, int], _Scored] = {}


def prune_ours(subject: Subject, budget: float, seed: int) -> Pruned:
    """Prune with OBS scores, KL curves, the exact knapsack, and least-squares repair."""
    scored = _score(subject, seed)
    layers = allocate(
        KlKnapsack(),
        subject.dims,
        {s: score.tolist() for s, score in scored.scores.items()},
        cost=COST,
        budget=budget,
        constraints=Constraints(neuron_multiple=NEURON_MULTIPLE),
        curves=scored.curves,
    )
    task = subject.copy_task(subject.draw(seed))
    prune_in_place(task, layers, LeastSquares(damping=DAMPING))
    return subject.cut(task.model, layers)


def _score(subject: Subject, seed: int) -> _Scored:
    """Score once for all budgets."""
    key = (subject.name, subject.num_sequences, seed)
    if key not in _SCORED:
        task = subject.make_task(subject.draw(seed))
        scores = score_units(Obs(damping=DAMPING), task)
        curves = measure_curves(
            task,
            scores,
            num_levels=KlKnapsack().num_levels,
            damping=DAMPING,
            num_measured=NUM_MEASURED,
        )
        _SCORED[key] = _Scored(scores, curves)
    return _SCORED[key]
