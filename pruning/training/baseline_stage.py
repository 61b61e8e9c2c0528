"""First of the four stages: fine-tune the dense model that everything is compared with."""

from __future__ import annotations

import time
from pathlib import Path

from transformers import AutoTokenizer, set_seed

from pruning.checkpoints.model_skeleton import build_skeleton
from pruning.checkpoints.model_source import (
    load_stock_model,
    load_with_head,
    name_first,
    resolve_model,
)
from pruning.cutting.repack import read_dense
from pruning.progress import Say
from pruning.strict_json import JsonObject
from pruning.tasks.data_config import DataConfig
from pruning.tasks.evaluation import evaluate_text
from pruning.tasks.position_limit import check_length
from pruning.tasks.tasks import check_head, recognise_task, settle_padding
from pruning.tasks.text_data import LabelledText, load_text
from pruning.training.resumable_training import make_trainer, train_resumably
from pruning.training.training_configs import BaselineConfig


def run_baseline(
    model: str,
    data: DataConfig,
    config: BaselineConfig,
    out_dir: Path,
    say: Say = lambda _: None,
) -> JsonObject:
    """Fine-tune `model` for the task of `data` into `out_dir/checkpoint`.

    Where the task has classes, the head is a fresh one; `fresh_tensors` of the result names what
    was drawn at random, and `say` gets a line that says so.
    Called again with the same `out_dir`, it continues from its last whole checkpoint.

    Raises:
        NirvanaError: the model cannot be pruned, was pruned before or cannot be loaded, or the data
            set does not fit.
    """
    started = time.monotonic()
    skeleton = build_skeleton(resolve_model(model))
    read_dense(skeleton)  # before weights are asked for
    tokenizer = load_stock_model(AutoTokenizer, model)
    text = load_text(data, tokenizer, recognise_task(skeleton))
    check_head(text.task, skeleton, fine_tuned=False)
    settle_padding(text.task, skeleton, tokenizer)
    set_seed(config.seed)  # the head is drawn from it
    dense, drawn = load_with_head(text.task.auto_class, model, fresh=True, **_describe_head(text))
    if drawn:
        say(f"drawn at random, to be trained: {name_first(drawn)}")
    read_dense(dense)  # refuse what cannot be pruned before an hour of training
    settle_padding(text.task, dense, tokenizer)
    check_length(dense, data.max_length, "data.max_length")
    trainer = make_trainer(dense, text, tokenizer, config, out_dir / "trainer", [], "baseline")
    train_resumably(trainer)
    metrics = evaluate_text(dense, text, tokenizer)
    dense.save_pretrained(out_dir / "checkpoint")
    tokenizer.save_pretrained(out_dir / "checkpoint")
    return {
        "model": model,
        "fresh_tensors": list(drawn),
        **_describe_data(text),
        **metrics,
        "num_steps": trainer.state.global_step,
        "train_seconds": time.monotonic() - started,
        "curve": [
            {"step": entry["step"], "loss": entry["loss"]}
            for entry in trainer.state.log_history
            if "loss" in entry
        ],
    }


def _describe_head(text: LabelledText) -> dict[str, object]:
    """Say what head is made; one of another size that came along is replaced."""
    if text.task.head_size is not None:
        return {"num_labels": text.task.head_size, "ignore_mismatched_sizes": True}
    if not text.task.has_classes:
        return {}
    # Unset, transformers decides by the labels that come; another kind of head may have set it.
    kind = "single_label_classification" if text.task.name == "classification" else None
    return {
        **({} if kind is None else {"problem_type": kind}),
        "num_labels": len(text.labels),
        "id2label": dict(enumerate(text.labels)),
        "label2id": {name: number for number, name in enumerate(text.labels)},
        "ignore_mismatched_sizes": True,
    }


def _describe_data(text: LabelledText) -> dict[str, object]:
    return {
        "task": text.task.name,
        "metric": text.task.metric,
        "num_train_rows": len(text.train),
        "num_validation_rows": len(text.validation),
        "num_labels": len(text.labels),
        "labels": list(text.labels),
    }
