"""The published one-shot methods, each as its authors run it, on this project's parts.

All get the same calibration batches, and neurons in steps of 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mask_tuning import tune_masks
from method_subjects import COST, NEURON_MULTIPLE, Pruned, Subject, keep_zeros
from torch import nn

from pruning.allocation.constraints import Constraints
from pruning.allocation.levels import sub_block_cost
from pruning.allocation.threshold_allocations import Gamma, allocate_by_threshold, allocate_uniform
from pruning.cutting.output_difference import divergence, predictions_of
from pruning.oneshot.oneshot_config import MeanShift
from pruning.plans.plan import LayerPlan
from pruning.plans.sub_block import SubBlock, count_units
from pruning.repair.repair import prune_in_place
from pruning.scoring.block_walk import Batch, prepare_inputs
from pruning.scoring.fisher import Fisher, Taylor
from pruning.scoring.flap import Flap
from pruning.scoring.known_saliencies import score_units
from pruning.scoring.nirvana import Nirvana
from pruning.scoring.saliency import Saliency
from pruning.scoring.unit_weights import Magnitude

NUM_DRAWS = 3  # that NIRVANA chooses from
_Lists = dict[SubBlock, list[float]]
_SCORES: dict[tuple[str, int, str, int, int], _Lists] = {}


def prune_magnitude_uniform(subject: Subject, budget: float, seed: int) -> Pruned:
    """Cut the same share of each layer, the units of the least L2 norm; no repair."""
    scores = _score(subject, Magnitude("l2"), seed)
    return _cut(subject, _allocate_uniform(subject, scores, budget))


def prune_magnitude_global(subject: Subject, budget: float, seed: int) -> Pruned:
    """Cut the units of the least L2 norm of all layers: equal shares of heads and of neurons."""
    scores = _score(subject, Magnitude("l2"), seed)
    return _cut(subject, _allocate(subject, scores, budget, gamma=1.0))


def prune_taylor(subject: Subject, budget: float, seed: int) -> Pruned:
    """LLM-Pruner: its first-order Taylor score, the same share of each layer; no repair."""
    scores = _score(subject, Taylor(), seed)
    return _cut(subject, _allocate_uniform(subject, scores, budget))


def prune_fisher(subject: Subject, budget: float, seed: int) -> Pruned:
    """Kwon et al.: Fisher scores, one cut on score per cost, then mask tuning.

    Their search with rearrangement is stood in for by that cut, which its diagonal form equals.
    """
    batches = subject.draw(seed)
    layers = _allocate(subject, _score(subject, Fisher(), seed), budget, gamma=None)
    pruned = subject.copy_task(batches)
    tune_masks(subject.make_task(batches), pruned, layers)
    return subject.cut(pruned.model, layers)


def prune_flap(subject: Subject, budget: float, seed: int) -> Pruned:
    """FLAP: standardised fluctuation, one cut over all layers, and the bias that makes it good.

    Units are ranked by the score alone; what each costs counts against the budget only. As its
    authors do for Llama, a model without biases at its output projections gets some.
    """
    scores = _score(subject, Flap(), seed)
    layers = _allocate(subject, _weigh_by_cost(subject, scores), budget, gamma=None)
    task = subject.copy_task(subject.draw(seed))
    outputs = [site.output for site in task.sites.values()]
    adds_biases = any(getattr(output, "bias", None) is None for output in outputs)
    if adds_biases:
        for output in outputs:
            output.bias = nn.Parameter(torch.zeros(output.weight.shape[0]))
    prune_in_place(task, layers, MeanShift())
    if not adds_biases:
        return subject.cut(task.model, layers)
    note = "biases were added to the output projections, and are not counted"
    keep_zeros(task, layers)
    return Pruned(task.model, layers, note)


def prune_nirvana(subject: Subject, budget: float, seed: int) -> Pruned:
    """NIRVANA: two thresholds with gamma = P_M / P_A, no layer emptied, the best of some draws."""
    plans = [_plan_nirvana(subject, budget, seed, number) for number in range(NUM_DRAWS)]
    made = [_cut(subject, plan) for plan in plans]
    judges = [batch for number in range(NUM_DRAWS) for batch in subject.draw(seed, number)[:2]]
    return min(made, key=lambda pruned: _diverge(subject, pruned, judges))


def _plan_nirvana(subject: Subject, budget: float, seed: int, draw: int) -> tuple[LayerPlan, ...]:
    scores = _score(subject, Nirvana(), seed, draw)
    return _allocate(subject, scores, budget, gamma="auto", may_drop=False)


@torch.no_grad()
def _diverge(subject: Subject, pruned: Pruned, batches: Sequence[Batch]) -> float:
    total = 0.0
    for batch in batches:
        inputs = prepare_inputs(subject.model, batch)
        dense, now = subject.model(**inputs), pruned.model(**inputs)
        total += divergence(predictions_of(dense), predictions_of(now))
    return total / len(batches)


def _score(subject: Subject, saliency: Saliency, seed: int, draw: int = 0) -> _Lists:
    """Score once for all budgets."""
    key = (subject.name, subject.num_sequences, repr(saliency), seed, draw)
    if key not in _SCORES:
        scores = score_units(saliency, subject.make_task(subject.draw(seed, draw)))
        _SCORES[key] = {s: score.tolist() for s, score in scores.items()}
    return _SCORES[key]


def _allocate_uniform(subject: Subject, scores: _Lists, budget: float) -> tuple[LayerPlan, ...]:
    limits = Constraints(neuron_multiple=NEURON_MULTIPLE)
    return allocate_uniform(subject.dims, scores, COST, budget, limits)


def _allocate(
    subject: Subject, scores: _Lists, budget: float, gamma: Gamma, may_drop: bool = True
) -> tuple[LayerPlan, ...]:
    limits = Constraints(neuron_multiple=NEURON_MULTIPLE, may_drop=may_drop)
    return allocate_by_threshold(subject.dims, scores, COST, budget, limits, gamma)


def _weigh_by_cost(subject: Subject, scores: _Lists) -> _Lists:
    """Return scores that, once divided by their units' costs, are ranked as they were."""
    weighed = {}
    for sub_block, values in scores.items():
        units = count_units(sub_block, subject.dims)
        empty, full = (sub_block_cost(sub_block, count, subject.dims, COST) for count in (0, units))
        weighed[sub_block] = [value * (full - empty) / units for value in values]
    return weighed


def _cut(subject: Subject, layers: tuple[LayerPlan, ...]) -> Pruned:
    return subject.cut(subject.model, layers)
