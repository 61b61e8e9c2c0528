"""Which of several calibration draws is kept: the one whose scores cost least (NIRVANA)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from pruning.allocation.allocation_config import Uniform, allocate
from pruning.allocation.constraints import Constraints
from pruning.calibration.calibration import Calibration
from pruning.checkpoints.prunable_model import PrunableModel
from pruning.cutting.masking import masked
from pruning.cutting.output_difference import divergence, predictions_of
from pruning.cutting.repack import plan_for
from pruning.plans.cost import ParameterCost
from pruning.scoring.block_walk import Batch, prepare_inputs
from pruning.scoring.saliency import Scores, ScoringTask

_BATCHES_EACH = 2  # of every draw


def pool_batches(draws: Sequence[Calibration]) -> tuple[Batch, ...]:
    """Return the batches on which all draws are judged: the first ones of each."""
    return tuple(chain.from_iterable(draw.batches[:_BATCHES_EACH] for draw in draws))


@torch.no_grad()
def measure_draw(
    task: ScoringTask,
    source: PrunableModel,
    scores: Scores,
    pool: Sequence[Batch],
    budget: float,
) -> float:
    """Return KL(dense || pruned), mean over the batches of `pool`, in nats.

    Pruned is the model under masks that keep the share `budget` of every layer's parameters by
    `scores`, without repair (NIRVANA, arXiv 2509.14230). No weight is touched. The pool holds
    batches of all draws, lest each be judged on its own text.
    """
    layers = allocate(
        Uniform(),
        source.dims,
        {sub_block: values.tolist() for sub_block, values in scores.items()},
        cost=ParameterCost(),
        budget=budget,
        constraints=Constraints(neuron_multiple=1),
    )
    plan = plan_for(task.model, layers)
    total = 0.0
    for batch in pool:
        inputs = prepare_inputs(task.model, batch)
        dense = predictions_of(task.model(**inputs))
        with masked(task.model, plan, source.wiring):
            total += divergence(dense, predictions_of(task.model(**inputs)))
    return total / len(pool)
