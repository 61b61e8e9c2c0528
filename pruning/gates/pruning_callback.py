"""Makes the gates learn inside an ordinary `transformers.Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pruning.gates.gate_registry import GateRegistry
from pruning.gates.objective import ascend_multiplier, penalise
from pruning.gates.projection import project
from pruning.gates.prune_config import PruneConfig
from pruning.gates.pruning_scheduler import PruningScheduler

GATE_OPTIMIZER_FILE = "gate_optimizer.safetensors"


class PruningCallback(TrainerCallback):
    """Gradual pruning interleaved with fine-tuning, validation after each stage, exact finish.

    The gates have an optimizer of their own. It steps just before the Trainer's, and leaves the
    gates without gradients, so that the Trainer's (its weight decay, its learning rate) never
    moves them. At the end of the last stage the gates are projected onto the budget and frozen.
    """

    def __init__(self, registry: GateRegistry, config: PruneConfig) -> None:
        self.registry = registry
        self.config = config
        self.undecided_fraction: float | None = None  # of the moment before the projection
        self._optimizer = torch.optim.Adam(registry.parameters(), lr=config.gate_learning_rate)
        self._scheduler: PruningScheduler | None = None

    @property
    def scheduler(self) -> PruningScheduler:
        """The schedule, known once training has begun."""
        assert self._scheduler is not None, "training has not begun"
        return self._scheduler

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Lay out the schedule; on resuming, take up the gates' optimizer."""
        self._scheduler = PruningScheduler(
            config=self.config.schedule, budget=self.config.budget, num_steps=state.max_steps
        )
        if state.global_step > 0:
            self._load_optimizer(_checkpoint_folder(args, state))
            self.undecided_fraction = _last_logged(state, "undecided_before_projection")

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the gates by the task's gradient and the objective's."""
        if not self.registry.frozen:
            target = self.scheduler.target(state.global_step)
            penalise(self.registry, self.config.objective, target).backward()
            self._optimizer.step()
            self.registry.constrain()
            ascend_multiplier(self.registry, self.config.objective, target)
        self.registry.zero_grad(set_to_none=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Validate when a stage is done; after the last, meet the budget and freeze."""
        if not self.scheduler.ends_stage(state.global_step):
            return
        control.should_evaluate = True
        if not self.scheduler.is_learning(state.global_step):
            self.undecided_fraction = self.registry.undecided_fraction()
            layers = project(self.registry, self.config.budget, self.config.constraints)
            self.registry.freeze(layers)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the gates' state to what was just logged."""
        state.log_history[-1].update(self._describe(state.global_step))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the gates' optimizer in the Trainer's checkpoint."""
        tensors = {
            f"{index}.{name}": value
            for index, entry in self._optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }
        save_file(tensors, _checkpoint_folder(args, state) / GATE_OPTIMIZER_FILE)

    def _describe(self, step: int) -> dict[str, float]:
        last = max(0, step - 1)
        described = {
            "pruning_stage": self.scheduler.stage(last),
            "target_kept_fraction": self.scheduler.target(last),
            "kept_fraction": float(self.registry.kept_density().detach()),
            "undecided_fraction": self.registry.undecided_fraction(),
        }
        if self.undecided_fraction is not None:
            described["undecided_before_projection"] = self.undecided_fraction
        return described

    def _load_optimizer(self, folder: Path) -> None:
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in load_file(folder / GATE_OPTIMIZER_FILE).items():
            index, name = key.split(".", 1)
            entries.setdefault(int(index), {})[name] = value
        whole = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**whole, "state": entries})


def _checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    assert args.output_dir is not None
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _last_logged(state: TrainerState, key: str) -> float | None:
    return next((entry[key] for entry in reversed(state.log_history) if key in entry), None)
