"""The methods that learn what to cut while they train: this project's gates, and CoFi's.

Their steps are all there are: those in which gates learn, and the fine-tuning after them. Rows,
optimiser, learning rate and the teacher's loss are those of `method_training`.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

from method_subjects import NEURON_MULTIPLE, Pruned, Subject
from method_training import NEVER, RECIPES, read_text

from pruning.allocation.constraints import Constraints
from pruning.gates.gate_kinds import HardConcrete
from pruning.gates.learn_gates import learn_gates
from pruning.gates.prune_config import PruneConfig, ScheduleConfig

_RANKED_BATCHES = 16  # that the warm start looks at, as a calibration draw has


def prune_gates(subject: Subject, budget: float, seed: int, steps: int) -> Pruned:
    """Learn straight-through gates by this project's defaults."""
    ranked = _RANKED_BATCHES * RECIPES[subject.name].batch_size
    return _learn(subject, budget, seed, steps, warm_start_rows=ranked)


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
        **settings,
    )
    model, teacher = copy.deepcopy(subject.model), copy.deepcopy(subject.model)
    text = read_text(subject, seed, steps)
    with tempfile.TemporaryDirectory() as folder:
        registry, _, _ = learn_gates(model, teacher, text, subject.tokenizer, config, Path(folder))
    registry.detach(model)  # first: what gates say between 0 and 1 is folded into the weights
    return subject.cut(model, registry.kept_layers())
