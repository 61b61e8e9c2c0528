"""Runs a `transformers.Trainer` so that a kill at any moment costs only the last few steps."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pruning.errors import NirvanaError
from pruning.training.task import Task
from pruning.training.text_data import LabelledText, collate
from pruning.training.training_precision import has_native_bf16
from pruning.training.training_progress import TrainingProgress

COMPLETE_FILE = "complete"


class TrainingSettings(Protocol):
    """The fields that every training config has."""

    @property
    def num_epochs(self) -> float:
        """Passes over the training rows."""

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of the weights."""

    @property
    def batch_size(self) -> int:
        """Rows a step."""

    @property
    def seed(self) -> int:
        """Of row order and dropout."""

    @property
    def bf16(self) -> bool | None:
        """Train in bf16; None: where the hardware has it."""

    @property
    def save_steps(self) -> int:
        """Steps between resumable checkpoints."""


class MarkComplete(TrainerCallback):
    """Marks a Trainer checkpoint as whole, after everything in it was written.

    Add it last: the other callbacks' files then belong to what is marked.
    """

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the mark."""
        assert args.output_dir is not None
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE_FILE).touch()


class StopOnBadLoss(TrainerCallback):
    """Stops with a clear error when the loss is no number any more."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at each logged loss."""
        loss = (logs or {}).get("loss")
        if loss is not None and not abs(loss) < float("inf"):
            raise NirvanaError(
                f"The loss became {loss} by step {state.global_step}. Lower the learning rate and "
                "run again."
            )


def make_trainer(
    model: PreTrainedModel,
    text: LabelledText,
    tokenizer: Any,
    settings: TrainingSettings,
    out_dir: Path,
    callbacks: list[TrainerCallback],
    name: str,
    max_steps: int | None = None,
) -> Trainer:
    """Build the Trainer for `out_dir`, which holds its resumable checkpoints.

    `name` is what the progress is reported under. `max_steps` overrides the number of epochs.
    Parameters that no checkpoint keeps are frozen.
    """
    freeze_unsaved(model)
    arguments = TrainingArguments(
        output_dir=str(out_dir),
        num_train_epochs=settings.num_epochs,
        max_steps=max_steps or -1,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=text.task.evaluation_batch_size,
        prediction_loss_only=text.task.score is None,
        remove_unused_columns=False,  # collate takes what it needs
        seed=settings.seed,
        use_cpu=not torch.accelerator.is_available(),
        bf16=has_native_bf16() if settings.bf16 is None else settings.bf16,
        warmup_steps=0.06,
        weight_decay=0.01,
        logging_steps=5,
        logging_nan_inf_filter=False,
        save_steps=settings.save_steps,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,  # TrainingProgress reports instead
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # DataParallel would part gates from their registry
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=text.train,
        eval_dataset=text.validation,
        data_collator=partial(collate, tokenizer),
        compute_metrics=text.task.score,
        preprocess_logits_for_metrics=partial(_predict, text.task),
        callbacks=[*callbacks, TrainingProgress(name), StopOnBadLoss(), MarkComplete()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def freeze_unsaved(model: PreTrainedModel) -> None:
    """Keep in place, untrained, what `save_pretrained` leaves out.

    Marian's sinusoids come trainable out of `from_pretrained`, are not saved, and are computed anew
    when the model is loaded: what they had learned would be lost.
    """
    unsaved = set(model._keys_to_ignore_on_save or ())
    for name, parameter in model.named_parameters():  # a tied one has its saved name here
        if name in unsaved:
            parameter.requires_grad_(False)


def _predict(task: Task, outputs: Any, _: Any) -> torch.Tensor:
    """Leave out what encoder-decoders return besides: the encoder's hidden states of all rows."""
    return task.predict(outputs if isinstance(outputs, tuple) else (outputs,))


def train_resumably(trainer: Trainer) -> None:
    """Train to the end, from the last whole checkpoint where there is one.

    The model is left as it came: without the autocast that bf16 training wraps around it.
    """
    assert trainer.args.output_dir is not None
    checkpoint = find_whole_checkpoint(Path(trainer.args.output_dir))
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TrainingProgress):
                callback.stop()
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def find_whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; remove those that were not."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    for checkpoint in checkpoints:
        if not (checkpoint / COMPLETE_FILE).is_file():
            shutil.rmtree(checkpoint)
    whole = [checkpoint for checkpoint in checkpoints if checkpoint.is_dir()]
    return whole[-1] if whole else None
