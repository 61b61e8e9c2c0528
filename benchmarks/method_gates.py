"""The methods that learn what to cut while they train: this project's gates, and CoFi's.

Their steps are all there are: those in which gates learn, and the fine-tuning after them. Rows,
optimiser, learning rate and the teacher's loss are those of `method_training`.
"""

from __future__ import annotations

import copy
from typing import Any

from method_subjects import NEURON_MULTIPLE, Pruned, Subject
from method_training import NEVER, RECIPES, train

from pruning.allocation.constraints import Constraints
from pruning.gates.attach_gates import attach_gates
from pruning.gates.gate_kinds import HardConcrete
from pruning.gates.prune_config import PruneConfig, ScheduleConfig

PRUNE_FRACTION = 0.3  # of the steps in which units near the budget may change places
GATE_LEARNING_RATE = 0.02


def prune_gates(subject: Subject, budget: float, seed: int, steps: int) -> Pruned:
    """Learn straight-through gates that start where one-shot pruning ends, at the budget."""
    return _learn(
        subject,
        budget,
        seed,
        steps,
        warm_start="obs",
        schedule=ScheduleConfig(kind="at_budget", num_stages=1, prune_fraction=PRUNE_FRACTION),
        gate_learning_rate=GATE_LEARNING_RATE,
    )


def prune_hard_concrete(subject: Subject, budget: float, seed: int, steps: int) -> Pruned:
    """CoFi (arXiv 2204.00408): hard concrete gates from no ranking, a target that falls in a line.

    Its matching of hidden states is left out: every method has the same loss.
    """
    return _learn(
        subject,
        budget,
        seed,
        steps,
        gate_kind=HardConcrete(),
        warm_start=None,
        warm_start_rows=0,
        schedule=ScheduleConfig(kind="linear"),
    )


def _learn(subject: Subject, budget: float, seed: int, steps: int, **settings: Any) -> Pruned:
    recipe = RECIPES[subject.name]
    config = PruneConfig(
        budget=budget,
        cost="parameters",
        constraints=Constraints(neuron_multiple=NEURON_MULTIPLE),
        num_epochs=1.0,
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        seed=seed,
        bf16=False,
        save_steps=NEVER,
        canary=None,  # it keeps a checkpoint a stage
        **settings,
    )
    model = copy.deepcopy(subject.model)
    batches = subject.draw(seed) if config.starts_from_data else None
    callback = attach_gates(model, config, batches=batches)
    train(subject, model, config, seed, steps, [callback])
    registry = callback.registry
    registry.detach(model)  # first: what gates say between 0 and 1 is folded into the weights
    return subject.cut(model, registry.kept_layers())
