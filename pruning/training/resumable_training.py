"""Runs a `transformers.Trainer` so that a kill at any moment costs only the last few steps."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import get_available_reporting_integrations

from pruning.errors import MissingExtraError, NirvanaError
from pruning.tasks.task import Task
from pruning.tasks.text_data import LabelledText, collate
from pruning.training.loss_watch import ROW_COLUMN, LossWatch, RowCollator, settle_loss_scale
from pruning.training.recipe_guard import checkpoint_folder, log_before_save
from pruning.training.training_progress import TrainingProgress


def has_native_bf16() -> bool:
    """Return whether the training device multiplies bf16 in hardware.

    Elsewhere bf16 is emulated, and slower than fp32. Weights and optimizer stay fp32 either way.
    """
    if torch.cuda.is_available():
        is_native: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return is_native
    if torch.backends.mps.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16"))


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

    @property
    def report_to(self) -> str:
        """Where the Trainer logs losses, besides its own history."""


class MarkComplete(TrainerCallback):
    """Marks a Trainer checkpoint as whole, after everything in it was written.

    Add it last: the other callbacks' files then belong to what is marked.
    """

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Let the loss curve begin anew where a training may resume."""
        log_before_save(args, state, control)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Write the mark, when every process has written its part."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            (checkpoint_folder(args, state) / COMPLETE_FILE).touch()


def make_trainer(
    model: PreTrainedModel,
    text: LabelledText,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainingSettings,
    out_dir: Path,
    callbacks: list[TrainerCallback],
    name: str,
    max_steps: int | None = None,
) -> Trainer:
    """Build the Trainer for `out_dir`, which holds its resumable checkpoints.

    `name` is what the progress is reported under. `max_steps` overrides the number of epochs.
    Parameters that no checkpoint keeps are frozen. `callbacks` come before the Trainer's own, so
    that what they add to the logs is reported.

    Raises:
        MissingExtraError: `settings.report_to` is tensorboard, and that is not installed.
        NirvanaError: it is something that transformers does not know or that is not installed.
    """
    _check_reporter(settings.report_to)
    freeze_unsaved(model)
    settle_loss_scale(model)
    collator = RowCollator(partial(collate, tokenizer), num_batches=8)
    numbers = list(range(len(text.train)))
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
        report_to=settings.report_to,
        disable_tqdm=True,  # TrainingProgress reports instead
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # DataParallel would part gates from their registry
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=text.train.add_column(ROW_COLUMN, numbers),
        eval_dataset=text.validation,
        data_collator=collator,
        compute_metrics=text.task.score,
        preprocess_logits_for_metrics=partial(_predict, text.task),
        callbacks=[TrainingProgress(name), LossWatch(collator), MarkComplete()],
    )
    trainer.remove_callback(PrinterCallback)
    for callback in reversed(callbacks):
        _put_first(trainer, callback)
    return trainer


def _put_first(trainer: Trainer, callback: TrainerCallback) -> None:
    trainer.callback_handler.callbacks.insert(0, callback)
    callback.on_init_end(trainer.args, trainer.state, trainer.control)


def _check_reporter(name: str) -> None:
    available = get_available_reporting_integrations()
    if name == "tensorboard" and name not in available:
        raise MissingExtraError("TensorBoard", "tensorboard")
    if name not in ("none", *available):
        raise NirvanaError(
            f"report_to must be none or one of those that are installed and that transformers "
            f"knows, {', '.join(available) or 'of which there are none'}; got {name!r}."
        )


def freeze_unsaved(model: PreTrainedModel) -> None:
    """Keep in place, untrained, what `save_pretrained` leaves out.

    Marian's sinusoids come trainable out of `from_pretrained`, are not saved, and are computed anew
    when the model is loaded: what they had learned would be lost.
    """
    unsaved = set(model._keys_to_ignore_on_save or ())
    for name, parameter in model.named_parameters():  # a tied one has its saved name here
        if name in unsaved:
            parameter.requires_grad_(False)


def _predict(task: Task, outputs: object, _: object) -> torch.Tensor:
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
            if isinstance(callback, (TrainingProgress, LossWatch)):
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
