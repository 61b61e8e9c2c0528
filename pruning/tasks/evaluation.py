"""Scores a model on labelled rows, by its task's metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel

from pruning.checkpoints.model_source import quiet_transformers
from pruning.errors import NirvanaError
from pruning.tasks.collation import collate
from pruning.tasks.encoded_rows import IGNORED
from pruning.tasks.metrics import score_language, score_rouge_l
from pruning.tasks.own_metric import Metric
from pruning.tasks.task import Task
from pruning.tasks.text_data import LabelledText

Batch = dict[str, torch.Tensor]


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: Any,
    task: Task,
    *,
    bytes_per_token: float | None = None,
    own_metric: Metric | None = None,
    batch_size: int | None = None,
    num_written_rows: int = 64,
) -> dict[str, float]:
    """Return the task's scores of `model` on all rows, and the mean loss of a label (nats).

    Beside the loss: classification: accuracy, macro_f1; token-classification: the same of tokens;
    question-answering: exact_match, f1 of token spans; causal-lm: perplexity, bits_per_byte;
    masked-lm: perplexity of the hidden tokens; seq2seq: perplexity, and rouge_l of the texts that
    the model writes greedily for the first `num_written_rows` rows.

    `own_metric` gets predictions and labels as arrays: logits [rows, classes] of a classification;
    the likeliest [tokens] of tasks with a label a token, without those that do not count; spans
    [rows, (first, last token)] of a question answering; for seq2seq, lists of texts.

    Raises:
        NirvanaError: no row has a label that counts, or `own_metric` returned no numbers.
    """
    was_training = model.training
    model.eval()
    try:
        keeps = task.score is not None or (own_metric is not None and not task.writes)
        batches = _batches(model, rows, tokenizer, batch_size or task.evaluation_batch_size)
        loss, predictions, labels = _run(model, batches, task, keeps)
        if task.score is None:
            scores = {"loss": loss, **score_language(loss, bytes_per_token)}
        else:
            prediction = EvalPrediction(predictions=predictions, label_ids=labels)
            scores = {**task.score(prediction), "loss": loss}
        if task.writes:
            part = rows.select(range(min(num_written_rows, len(rows))))
            predictions, labels = _write(model, part, tokenizer, task)
            scores["rouge_l"] = score_rouge_l(predictions, labels)
    finally:
        model.train(was_training)
    return scores if own_metric is None else {**scores, **own_metric(predictions, labels)}


def _batches(
    model: PreTrainedModel, rows: Dataset, tokenizer: Any, batch_size: int
) -> Iterator[Batch]:
    for start in range(0, len(rows), batch_size):
        part = rows.select(range(start, min(start + batch_size, len(rows))))
        yield {k: v.to(model.device) for k, v in collate(tokenizer, list(part)).items()}


def _run(
    model: PreTrainedModel, batches: Iterator[Batch], task: Task, keeps: bool
) -> tuple[float, Any, Any]:
    """Return the mean loss and, where it is to keep them, all predictions and labels."""
    total, count = 0.0, 0
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    for batch in batches:
        outputs = model(**batch)
        labels = torch.stack([batch[name] for name in task.label_columns], -1).squeeze(-1)
        if task.shifted:
            labels = labels[:, 1:]
        num_labels = int((labels != IGNORED).sum()) if task.per_token else len(labels)
        if num_labels:  # a mean over none is no number
            total += float(outputs.loss) * num_labels
            count += num_labels
        if keeps:
            predicted = task.predict(tuple(outputs[name] for name in task.outputs))
            kept.append(_select(predicted, labels, task))
    if not count:
        raise NirvanaError(
            "No validation row has a label that counts, so there is nothing to score. Raise "
            "data.max_length, or look at the validation rows."
        )
    return total / count, *_join(kept)


def _select(
    predicted: torch.Tensor, labels: torch.Tensor, task: Task
) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave only the tokens that count: rows of several batches differ in length."""
    if task.per_token:
        predicted = predicted[:, : labels.shape[1]]  # the last token of a row predicts none of it
        predicted, labels = predicted[labels != IGNORED], labels[labels != IGNORED]
    return (predicted.float() if predicted.is_floating_point() else predicted).cpu(), labels.cpu()


def _join(kept: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[Any, Any]:
    if not kept:
        return None, None
    predicted, labels = zip(*kept, strict=True)
    return torch.cat(predicted).numpy(), torch.cat(labels).numpy()


def _write(
    model: PreTrainedModel, rows: Dataset, tokenizer: Any, task: Task
) -> tuple[list[str], list[str]]:
    """Return what the model writes, at most as long as the longest expected text, and those."""
    longest = max(len(labels) for labels in rows["labels"])
    written: list[str] = []
    expected = [list(labels) for labels in rows["labels"]]
    for batch in _batches(model, rows, tokenizer, task.evaluation_batch_size):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with quiet_transformers():
            tokens: Any = model.generate(  # type: ignore[operator]
                **inputs, do_sample=False, num_beams=1, max_new_tokens=longest, max_length=None
            )
        written += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return written, tokenizer.batch_decode(expected, skip_special_tokens=True)


def evaluate_text(model: PreTrainedModel, text: LabelledText, tokenizer: Any) -> dict[str, float]:
    """Return the scores of `model` on the validation rows of `text`, as `evaluate` does."""
    return evaluate(
        model,
        text.validation,
        tokenizer,
        text.task,
        bytes_per_token=text.bytes_per_token,
        own_metric=text.own_metric,
    )
