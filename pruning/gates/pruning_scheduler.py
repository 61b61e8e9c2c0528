"""Turns a training step into the kept fraction that the gates should have reached."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pruning.errors import NirvanaError
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.prune_config import BudgetConstraint, FixedPenalty, PruneConfig, ScheduleConfig


def penalise(
    registry: GateRegistry, objective: BudgetConstraint | FixedPenalty, target: float
) -> torch.Tensor:
    """Return the term to add to the task loss.

    FixedPenalty: `alpha * sum(head gates) + beta * sum(mlp gates)`.
    BudgetConstraint: `l1 * (s - s_t) + l2 * (s - s_t)^2`, s the kept hard density.
    """
    if isinstance(objective, FixedPenalty):
        heads, mlps = registry.head_gate_sum(), registry.mlp_gate_sum()
        return objective.alpha * heads + objective.beta * mlps
    excess = registry.kept_density() - target
    return registry.multiplier * excess + objective.quadratic * excess**2


@torch.no_grad()
def ascend_multiplier(
    registry: GateRegistry, objective: BudgetConstraint | FixedPenalty, target: float
) -> None:
    """Take one gradient ascent step on lambda 1, in place; a fixed penalty has none."""
    if isinstance(objective, BudgetConstraint):
        excess = registry.kept_density() - target
        registry.multiplier += objective.multiplier_lr * excess


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningScheduler:
    """Let the target fall from 1 to `budget` in stages, then leave steps to fine-tune.

    Of kind "at_budget" it is the budget in all of them.

    `step` is the number of optimizer steps done. Gates learn while `is_learning(step)`.
    """

    config: ScheduleConfig
    budget: float
    num_steps: int

    def __post_init__(self) -> None:
        if self.num_learning_steps < self.config.num_stages:
            raise NirvanaError(
                f"Expected at least one step for each of the {self.config.num_stages} pruning "
                f"stages, got {self.num_learning_steps} of {self.num_steps} steps. Raise "
                "num_epochs or schedule.prune_fraction, or lower batch_size or "
                "schedule.num_stages."
            )

    @property
    def num_learning_steps(self) -> int:
        """Steps in which gates learn."""
        return int(self.num_steps * self.config.prune_fraction)

    def is_learning(self, step: int) -> bool:
        """Return whether gates still learn after `step` steps."""
        return step < self.num_learning_steps

    def stage(self, step: int) -> int:
        """Return the pruning stage, from 1 to num_stages, that the next step belongs to."""
        if not self.is_learning(step):
            return self.config.num_stages
        return 1 + step * self.config.num_stages // self.num_learning_steps

    def ends_stage(self, step: int) -> bool:
        """Return whether a stage was completed by the step that made it `step` steps."""
        if not 0 < step <= self.num_learning_steps:
            return False
        return step == self.num_learning_steps or self.stage(step) != self.stage(step - 1)

    def target(self, step: int) -> float:
        """Return the kept fraction to aim at in the next step."""
        if not self.is_learning(step) or self.config.kind == "at_budget":
            return self.budget
        if self.config.kind == "stepwise":
            progress = self.stage(step) / self.config.num_stages
        else:
            # Reaches the budget one stage before the end, so that the gates can settle there.
            ramp = self.num_learning_steps * (1 - 1 / (self.config.num_stages + 1))
            progress = min(1.0, (step + 1) / max(1, math.ceil(ramp)))
        if self.config.kind == "cubic":
            progress = 1 - (1 - progress) ** 3
        return 1 - (1 - self.budget) * progress


def check_num_rows(config: PruneConfig, num_rows: int) -> None:
    """Refuse training rows that are too few for one step per pruning stage, before any training.

    Of several processes each sees a part of the rows, which is only checked when they train.

    Raises:
        NirvanaError: they are too few.
    """
    steps_per_epoch = math.ceil(num_rows / config.batch_size)
    num_steps = math.ceil(config.num_epochs * steps_per_epoch)
    try:
        PruningScheduler(config=config.schedule, budget=config.budget, num_steps=num_steps)
    except NirvanaError as error:
        raise NirvanaError(
            f"{num_rows} training rows in batches of {config.batch_size} make {num_steps} steps in "
            f"{config.num_epochs:g} epochs. {error}"
        ) from error
