"""An ordinary Trainer with gates in it, on a tiny model, as a user's own script would have it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, Trainer, TrainingArguments

from pruning.gates.attach_gates import attach_gates
from pruning.gates.prune_config import PruneConfig, ScheduleConfig
from pruning.tasks.collation import collate
from pruning.tasks.text_data import LabelledText, load_text
from tests.pruning.training.tiny_tasks import make_headed, make_tokenizer, write_rows

CONFIG = PruneConfig(
    budget=0.5,
    gate_learning_rate=0.3,
    sequence_length=16,
    warm_start_rows=0,
    schedule=ScheduleConfig(num_stages=3, prune_fraction=0.5),
    canary=None,
)


def make_text(folder: Path, task: str = "classification", num_train: int = 64) -> LabelledText:
    return load_text(
        write_rows(folder / "rows", task, num_train=num_train), make_tokenizer(folder / "tokenizer")
    )


def make_model(task: str = "classification", name: str | None = None) -> Any:
    """A model without dropout, which would differ between ways to part a batch."""
    changes = {"num_labels": 3} if task == "classification" else {}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return make_headed(task, name, **changes, **still)


def make_training(
    folder: Path,
    config: PruneConfig = CONFIG,
    model: Any = None,
    task: str = "classification",
    joins: bool = True,
    **arguments: Any,
) -> tuple[Any, Any, Trainer]:
    """A model with gates, their callback, and the Trainer, of 16 steps unless told otherwise."""
    model = make_model(task) if model is None else model
    text = make_text(folder, task)
    tokenizer = make_tokenizer(folder / "tokenizer")
    callback = attach_gates(model, config)
    settings = {
        "per_device_train_batch_size": 8,
        "max_steps": 16,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "logging_steps": 4,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": True,
        **arguments,
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder / "trainer"), **settings),
        train_dataset=text.train,
        eval_dataset=text.validation,
        data_collator=partial(collate, tokenizer),
        callbacks=[] if joins else [callback],
    )
    trainer.remove_callback(PrinterCallback)
    if joins:
        callback.join(trainer)
    return model, callback, trainer


def gate_logits(callback: Any) -> dict[str, Any]:
    return {n: p.detach().clone() for n, p in callback.registry.named_parameters()}
