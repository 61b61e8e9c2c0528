"""Trains a model that was cut, all of it or by LoRA, with the dense one as its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from pruning.errors import MissingExtraError
from pruning.tasks.text_data import LabelledText
from pruning.training.distillation import Distillation
from pruning.training.resumable_training import make_trainer, train_resumably
from pruning.training.training_configs import LoraConfig, RecoveryConfig


def recover(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    text: LabelledText,
    tokenizer: PreTrainedTokenizerBase,
    config: RecoveryConfig,
    work_dir: Path | str,
) -> list[dict[str, object]]:
    """Train a dense or repacked `model` in place; return the loss curve: step and loss.

    With `config.lora`, adapters on every linear map but the output embedding are trained, and
    merged into the weights at the end: the model is an ordinary one again. Without a teacher the
    task's loss is all. `work_dir` holds the resumable checkpoints: called again with the same
    weights, it goes on from the last whole one.

    Raises:
        MissingExtraError: peft is not installed and `config.lora` asks for it.
    """
    set_seed(config.seed)  # adapters are drawn from it
    student: Any = model if config.lora is None else _add_adapters(model, config.lora)
    teaching = None
    if teacher is not None:
        teaching = Distillation(teacher, config.distillation).attach(model)
    try:
        trainer = make_trainer(
            student, text, tokenizer, config, Path(work_dir), [], "recover", config.max_steps
        )
        train_resumably(trainer)
    finally:
        if teaching is not None:
            teaching.remove()
    if config.lora is not None:
        merged = student.merge_and_unload()
        assert merged is model
        model.requires_grad_(True)  # adapters had frozen them
    return [{k: e[k] for k in ("step", "loss")} for e in trainer.state.log_history if "loss" in e]


def _add_adapters(model: PreTrainedModel, config: LoraConfig) -> object:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft, which LoRA needs,", "lora") from error
    # Without a task type, what the task's head says goes through as it is.
    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules="all-linear",
    )
    return peft.get_peft_model(model, adapters)
