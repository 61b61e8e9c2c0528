"""Shows how far a training is: a bar on a terminal, a line every tenth in a log."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrainingProgress(TrainerCallback):
    """Reports steps, loss and, while pruning, what is kept, on the standard error."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Start the bar, where a resumed training stands."""
        if not sys.stderr.isatty():
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(
            self._name, total=state.max_steps, completed=state.global_step
        )
        self._bar.start()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Move the bar, or write a line when another tenth is done."""
        step, total = state.global_step, state.max_steps
        if self._bar is not None:
            text = f"{self._name}{describe_last(state)}"
            self._bar.update(self._task, completed=step, description=text)
        elif step * 10 // total > (step - 1) * 10 // total:
            sys.stderr.write(f"{self._name}: step {step} of {total}{describe_last(state)}\n")
            sys.stderr.flush()

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Leave the terminal as it was."""
        self.stop()

    def stop(self) -> None:
        """Take the bar away, also when the training was broken off."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def describe_last(state: TrainerState) -> str:
    """Return the last logged loss and kept fraction, as text to append."""
    entry = next((e for e in reversed(state.log_history) if "loss" in e), {})
    text = f", loss {entry['loss']:.3f}" if "loss" in entry else ""
    if "kept_fraction" in entry:
        text += f", kept {entry['kept_fraction']:.1%} (target {entry['target_kept_fraction']:.1%})"
    return text
