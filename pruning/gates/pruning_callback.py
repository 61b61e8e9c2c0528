"""Makes the gates learn inside an ordinary `transformers.Trainer`."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pruning.errors import NirvanaError, NirvanaWarning
from pruning.gates.canary import (
    LAST_GOOD_FOLDER,
    Canary,
    CollapseWatch,
    HeldOutLoss,
    keep_checkpoint,
    restore_weights,
)
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.processes import (
    average_gradients,
    keep_gates_whole,
    refuse_what_gates_cannot,
)
from pruning.gates.projection import project
from pruning.gates.prune_config import PruneConfig
from pruning.gates.pruning_scheduler import PruningScheduler, ascend_multiplier, penalise
from pruning.oneshot.oneshot_config import Pricing
from pruning.plans.plan import PruningPlan
from pruning.plans.weight_fingerprint import WeightFingerprint
from pruning.strict_json import read_object
from pruning.tasks.data_config import DataConfig
from pruning.training.recipe_guard import RecipeGuard, checkpoint_folder, log_before_save

GATE_OPTIMIZER_FILE = "gate_optimizer.safetensors"
PROGRESS_FILE = "pruning_progress.json"
# What may change on resuming: it says what is told and kept, not what is learned.
_FREE_TO_CHANGE = ("canary", "report_to", "save_steps")


class PruningCallback(TrainerCallback):
    """Gradual pruning interleaved with fine-tuning, validation after each stage, exact finish.

    The gates have an optimizer of their own. It steps just before the Trainer's, and leaves the
    gates without gradients, so that the Trainer's (its weight decay, its learning rate) never
    moves them. At the end of the last stage the gates are projected onto the budget and frozen.

    `plan` is what the dense model is, all kept; a plan of the last good stage is made of it. `data`
    is kept with the recipe, and compared on resuming; so is `pricing`, where the budget is a
    fraction of something other than `config.cost`.
    """

    def __init__(
        self,
        registry: GateRegistry,
        config: PruneConfig,
        plan: PruningPlan | None = None,
        data: DataConfig | None = None,
        pricing: Pricing | None = None,
    ) -> None:
        self.registry = registry
        self.config = config
        self.pricing = pricing
        self.undecided_fraction: float | None = None  # of the moment before the projection
        self.canary = None if config.canary is None else Canary(config.canary)
        self.collapse = CollapseWatch(registry.dims)
        self._plan = plan
        self._optimizer = torch.optim.Adam(registry.parameters(), lr=config.gate_learning_rate)
        self._scheduler: PruningScheduler | None = None
        self._keeps_next_save = False
        fields = dataclasses.asdict(config).items()
        recipe = {"prune": {k: v for k, v in fields if k not in _FREE_TO_CHANGE}}
        recipe |= {} if data is None else {"data": dataclasses.asdict(data)}
        recipe |= {} if pricing is None else {"latency": dict(pricing.about)}
        self._guard = RecipeGuard(recipe)

    @property
    def first_weights(self) -> tuple[WeightFingerprint, ...]:
        """Fingerprints of the weights before training; empty where they are not known."""
        return () if self._plan is None else self._plan.weights

    @property
    def scheduler(self) -> PruningScheduler:
        """The schedule, known once training has begun."""
        assert self._scheduler is not None, "training has not begun"
        return self._scheduler

    def join(self, trainer: Trainer) -> None:
        """Add this to a Trainer, in place, before its reporters: they then log the gates too.

        Given as `callbacks=[...]`, it works the same, but the gates' state is in the Trainer's own
        log history only.
        """
        trainer.callback_handler.callbacks.insert(0, self)
        self.on_init_end(trainer.args, trainer.state, trainer.control)

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Have FSDP leave the gates whole in each process."""
        keep_gates_whole()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Lay out the schedule; on resuming, take up the gates' optimizer.

        Raises:
            NirvanaError: the recipe is not that of the checkpoint, or gates cannot learn under this
                kind of training.
        """
        refuse_what_gates_cannot(args)
        self._guard.on_train_begin(args, state, control)
        self._scheduler = PruningScheduler(
            config=self.config.schedule, budget=self.config.budget, num_steps=state.max_steps
        )
        if state.global_step > 0:
            self._load_progress(checkpoint_folder(args, state))

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Move the gates by the task's gradient and the objective's."""
        if not self.registry.frozen:
            target = self.scheduler.target(state.global_step)
            average_gradients(self.registry)
            self._add_gradients(penalise(self.registry, self.config.objective, target))
            self._optimizer.step()
            self.registry.constrain()
            ascend_multiplier(self.registry, self.config.objective, target)
        self.registry.zero_grad(set_to_none=True)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Look for collapse; validate when a stage is done; after the last, freeze the budget."""
        step = state.global_step
        if self._is_judged(step):
            control.should_evaluate = True
        log_before_save(args, state, control)
        if step == self.scheduler.num_learning_steps:
            self.undecided_fraction = self.registry.undecided_fraction()
            layers = project(self.registry, self.config.budget, self.config.constraints)
            self.registry.freeze(layers)
        if step <= self.scheduler.num_learning_steps:
            news = self.collapse.look(self.registry.kept_layers(), step)
            if news and state.is_world_process_zero:
                warnings.warn(news, NirvanaWarning, stacklevel=2)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Let the loss curve begin anew where a training may resume."""
        log_before_save(args, state, control, epoch_ends=True)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Judge the stage that has ended: keep its checkpoint, or go back to the last good one.

        Raises:
            NirvanaError: the held-out loss rose too far. Model and gates are those of the last good
                stage again.
        """
        loss = (metrics or {}).get("eval_loss")
        if self.canary is None or loss is None or not self._is_judged(state.global_step):
            return
        found = HeldOutLoss(
            stage=self.scheduler.stage(state.global_step - 1) if self._ends_stage(state) else 0,
            step=state.global_step,
            loss=loss,
            kept_fraction=float(self.registry.kept_density().detach()),
        )
        if not self.canary.admits(found):
            self._roll_back(self.canary, found, Path(args.output_dir or "."), kwargs["model"])
        control.should_save = self._keeps_next_save = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Add the gates' state to what is being logged."""
        described = self._describe(state.global_step)
        state.log_history[-1].update(described)
        if logs is not None:
            logs.update(described)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Keep the gates' optimizer and the recipe in the Trainer's checkpoint."""
        self._guard.on_save(args, state, control)
        keeps, self._keeps_next_save = self._keeps_next_save, False
        if not state.is_world_process_zero:
            return
        folder = checkpoint_folder(args, state)
        tensors = {
            f"{index}.{name}": value
            for index, entry in self._optimizer.state_dict()["state"].items()
            for name, value in entry.items()
        }
        save_file(tensors, folder / GATE_OPTIMIZER_FILE)
        progress = {
            "undecided_before_projection": self.undecided_fraction,
            "collapsed": self.collapse.to_json(),
            "held_out_losses": [] if self.canary is None else self.canary.to_json(),
        }
        (folder / PROGRESS_FILE).write_text(json.dumps(progress, indent=2) + "\n")
        if keeps:
            keep_checkpoint(folder)

    def _ends_stage(self, state: TrainerState) -> bool:
        return self.scheduler.ends_stage(state.global_step)

    def _is_judged(self, step: int) -> bool:
        """Return whether a stage ends here, or the loss for the first comparison is taken."""
        return self.scheduler.ends_stage(step) or (step == 1 and self.canary is not None)

    def _add_gradients(self, penalty: torch.Tensor) -> None:
        """Add the penalty's gradient to the gates', in place, past the hooks of DDP and FSDP."""
        gates = [gate for gate in self.registry.parameters() if gate.requires_grad]
        for gate, grad in zip(
            gates, torch.autograd.grad(penalty, gates, allow_unused=True), strict=True
        ):
            if grad is not None:
                gate.grad = grad if gate.grad is None else gate.grad + grad

    def _roll_back(
        self, canary: Canary, found: HeldOutLoss, out_dir: Path, model: PreTrainedModel
    ) -> None:
        said, good = canary.describe_rise(found), canary.last_good
        if good is None:
            raise NirvanaError(f"{said} It was so from the first step: lower the learning rate.")
        kept = out_dir / LAST_GOOD_FOLDER / f"checkpoint-{good.step}"
        restore_weights(model, kept)
        if self._plan is not None and _is_first_process():
            layers = self.registry.kept_layers()
            made_by = {"method": "gates", "rolled_back_to_step": good.step}
            dataclasses.replace(self._plan, layers=layers, made_by=made_by).save(kept / "plan.json")
        raise NirvanaError(
            f"{said} Training stopped; model and gates are those of step {good.step} again (stage "
            f"{good.stage}, {good.kept_fraction:.1%} kept), whose checkpoint and plan are kept in "
            f"{kept}. Prune more gently (more steps or schedule.num_stages, a lower "
            "gate_learning_rate, a higher budget), or raise the canary's limits."
        )

    def _describe(self, step: int) -> dict[str, float]:
        last = max(0, step - 1)
        described = {
            "pruning_stage": self.scheduler.stage(last),
            "target_kept_fraction": self.scheduler.target(last),
            "kept_fraction": float(self.registry.kept_density().detach()),
            "undecided_fraction": self.registry.undecided_fraction(),
            "num_collapsed_sub_blocks": len(self.collapse.collapsed),
        }
        if self.undecided_fraction is not None:
            described["undecided_before_projection"] = self.undecided_fraction
        return described

    def _load_progress(self, folder: Path) -> None:
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in load_file(folder / GATE_OPTIMIZER_FILE).items():
            index, name = key.split(".", 1)
            entries.setdefault(int(index), {})[name] = value
        whole = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**whole, "state": entries})
        progress = read_object(
            folder / PROGRESS_FILE, remedy="Train into another folder.", finite=False
        )
        self.undecided_fraction = progress["undecided_before_projection"]
        self.collapse.restore(progress["collapsed"])
        if self.canary is not None:
            self.canary.restore(progress["held_out_losses"])


def _is_first_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
