"""Keeps a recipe beside each Trainer checkpoint, and refuses to go on from one with another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from pruning.errors import NirvanaError
from pruning.strict_json import read_object

RECIPE_FILE = "recipe.json"


class RecipeGuard(TrainerCallback):
    """Saves what a training obeys, and compares it on resuming.

    Beside `recipe` these are the learning rate, the seed, the number of steps, and the rows a step
    over all processes; how many processes share them may change.
    """

    def __init__(self, recipe: Mapping[str, object]) -> None:
        self._recipe = recipe

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Compare, where this goes on from a checkpoint.

        Raises:
            NirvanaError: the recipe is another one, naming each key with what it was and is now.
        """
        if state.global_step == 0:
            return
        path = checkpoint_folder(args, state) / RECIPE_FILE
        if not path.is_file():
            raise NirvanaError(
                f"Expected {path} to resume from: gates go on only from a checkpoint of "
                f"args.output_dir ({args.output_dir}) that was saved with this callback."
            )
        was = read_object(path, remedy="Train into another folder.")
        differences = list(_compare(was, self._describe(args, state)))
        if differences:
            raise NirvanaError(
                f"The checkpoint {path.parent} was made by another recipe: "
                f"{'; '.join(differences)}. Set them back to go on, or train into another folder."
            )

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Write the recipe into the checkpoint."""
        if state.is_world_process_zero:
            text = json.dumps(self._describe(args, state), indent=2, sort_keys=True)
            (checkpoint_folder(args, state) / RECIPE_FILE).write_text(text + "\n")

    def _describe(self, args: TrainingArguments, state: TrainerState) -> dict[str, object]:
        num_rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        training = {
            "learning_rate": args.learning_rate,
            "seed": args.seed,
            "num_steps": state.max_steps,
            "rows_per_step": num_rows,
        }
        described: dict[str, object] = json.loads(
            json.dumps({**self._recipe, "training": training})
        )
        return described


def log_before_save(
    args: TrainingArguments, state: TrainerState, control: TrainerControl, epoch_ends: bool = False
) -> None:
    """Have the loss logged, in place, wherever a checkpoint may be written.

    The Trainer keeps the sum of the losses since the last log in memory only: a training that
    resumes between two logs would give the mean of fewer steps than an uninterrupted one. A
    validation may end in a checkpoint too.
    """
    every = state.save_steps if args.save_strategy == SaveStrategy.STEPS else 0
    saves = every > 0 and (state.global_step % every == 0 or state.global_step >= state.max_steps)
    saves |= epoch_ends and args.save_strategy == SaveStrategy.EPOCH
    if saves or control.should_save or control.should_evaluate:
        control.should_log = True


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Return the folder of the Trainer's checkpoint at the present step."""
    assert args.output_dir is not None
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _compare(was: object, now: object, key: str = "") -> Iterator[str]:
    """Yield each dotted key whose values differ, with both."""
    if not isinstance(was, dict) or not isinstance(now, dict):
        if was != now:
            yield f"{key} was {json.dumps(was)}, now {json.dumps(now)}"
        return
    for name in [*now, *(name for name in was if name not in now)]:
        inner = f"{key}.{name}" if key else name
        if name not in now:
            yield f"{inner} was {json.dumps(was[name])}, now unset"
        elif name not in was:
            yield f"{inner} was unset, now {json.dumps(now[name])}"
        else:
            yield from _compare(was[name], now[name], inner)
