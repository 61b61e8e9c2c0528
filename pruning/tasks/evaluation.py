"""Scores a model on labelled rows, by its task's metrics.

    outputs = run_rows(model, rows, tokenizer, task)      # losses, predictions and labels per row
    scores = score_rows(outputs, task)                    # {"accuracy": 0.91, ..., "loss": 0.3}

`evaluate` does both for a torch model; `evaluated_rows.py` adds intervals, tables per class and
what differs from a baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from numpy.typing import NDArray
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from pruning.checkpoints.model_source import quiet_transformers
from pruning.errors import NirvanaError
from pruning.tasks.collation import collate
from pruning.tasks.metrics import Metric, score_language, score_rouge_l
from pruning.tasks.task import IGNORED, Task
from pruning.tasks.text_data import LabelledText

Batch = dict[str, torch.Tensor]
Array = NDArray[Any]
# What a model is here: called with a batch by name, it returns its outputs by name.
Model = Callable[..., Mapping[str, torch.Tensor]]
# As many rows are written by a model that writes: it takes a step for each token.
NUM_WRITTEN_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOutputs:
    """What a model made of each row.

    Attributes:
        losses: Sum of the row's losses, in nats.
        counts: Number of labels in that sum.
        predictions: By row: logits [classes] of a classification, the likeliest classes or tokens
            [tokens] of tasks with a label per token, a span [2] of a question answering.
        labels: By row, in the shape of the predictions (a number for a classification).
        written: Texts that the model wrote for the first rows, and the expected ones.
    """

    losses: Array
    counts: Array
    predictions: list[Array]
    labels: list[Array]
    written: tuple[list[str], list[str]] = field(default=([], []))


@torch.no_grad()
def run_rows(
    model: Model,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> RowOutputs:
    """Run `model` on all rows. `on_rows` is called with the number of rows that are done.

    A model gets no labels, except of a task that writes: its decoder reads them.
    """
    losses: list[Array] = []
    counts: list[Array] = []
    predictions: list[Array] = []
    all_labels: list[Array] = []
    size = batch_size or task.evaluation_batch_size
    for batch in _batches(rows, tokenizer, size, device):
        given = {k: v for k, v in batch.items() if task.writes or k not in task.label_columns}
        outputs = model(**given)
        named = tuple(outputs[name] for name in task.outputs)
        labels = [batch[name] for name in task.label_columns]
        if task.shifted:
            labels = [each[:, 1:] for each in labels]
        if task.per_token:  # the last token of a shifted row predicts none of it
            named = tuple(each[:, : labels[0].shape[1]] for each in named)
        loss, count = _sum_losses(named, labels)
        losses.append(loss)
        counts.append(count)
        predicted = task.predict(named)
        predicted = predicted.float() if predicted.is_floating_point() else predicted
        joined = torch.stack(labels, -1).squeeze(-1)
        for row, label in zip(predicted.cpu().numpy(), joined.cpu().numpy(), strict=True):
            counted = label != IGNORED if task.per_token else ...
            predictions.append(np.asarray(row)[counted])
            all_labels.append(np.asarray(label)[counted])
        on_rows(len(predictions))
    return RowOutputs(
        losses=np.concatenate(losses),
        counts=np.concatenate(counts),
        predictions=predictions,
        labels=all_labels,
    )


def score_rows(
    outputs: RowOutputs,
    task: Task,
    *,
    bytes_per_token: float | None = None,
    own_metric: Metric | None = None,
) -> dict[str, float]:
    """Return the task's scores of all rows, and the mean loss of a label (nats); see `evaluate`.

    Of a model that only wrote texts, without losses, there are the scores of the texts.

    Raises:
        NirvanaError: no row has a label that counts, or `own_metric` returned no numbers.
    """
    if task.writes and not len(outputs.losses):  # only texts were written
        scores = {"rouge_l": score_rouge_l(*outputs.written)}
        return scores if own_metric is None else {**scores, **own_metric(*outputs.written)}
    num_labels = outputs.counts.sum()
    if not num_labels:
        raise NirvanaError(
            "No validation row has a label that counts, so there is nothing to score. Raise "
            "data.max_length, or look at the validation rows."
        )
    loss = float(outputs.losses.sum() / num_labels)
    join = np.concatenate if task.per_token else np.stack
    predictions, labels = join(outputs.predictions), join(outputs.labels)
    if task.score is None:
        scores = {"loss": loss, **score_language(loss, bytes_per_token)}
    else:
        prediction = EvalPrediction(predictions=predictions, label_ids=labels)
        scores = {**task.score(prediction), "loss": loss}
    if task.writes:
        scores["rouge_l"] = score_rouge_l(*outputs.written)
    if own_metric is None:
        return scores
    return {**scores, **own_metric(*(outputs.written if task.writes else (predictions, labels)))}


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    bytes_per_token: float | None = None,
    own_metric: Metric | None = None,
    batch_size: int | None = None,
    num_written_rows: int = NUM_WRITTEN_ROWS,
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
        outputs = run_rows(model, rows, tokenizer, task, device=model.device, batch_size=batch_size)
        if task.writes:
            written = write_texts(model, rows, tokenizer, task, num_rows=num_written_rows)
            outputs = replace(outputs, written=written)
        return score_rows(outputs, task, bytes_per_token=bytes_per_token, own_metric=own_metric)
    finally:
        model.train(was_training)


def evaluate_text(
    model: PreTrainedModel, text: LabelledText, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Return the scores of `model` on the validation rows of `text`, as `evaluate` does."""
    return evaluate(
        model,
        text.validation,
        tokenizer,
        text.task,
        bytes_per_token=text.bytes_per_token,
        own_metric=text.own_metric,
    )


@torch.no_grad()
def write_texts(
    model: Any,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    num_rows: int = NUM_WRITTEN_ROWS,
) -> tuple[list[str], list[str]]:
    """Return what the model writes greedily for the first rows, and the expected texts.

    It stops at the length of the longest expected text.
    """
    rows = rows.select(range(min(num_rows, len(rows))))
    longest = max(len(labels) for labels in rows["labels"])
    written: list[str] = []
    expected = [list(labels) for labels in rows["labels"]]
    for batch in _batches(rows, tokenizer, task.evaluation_batch_size, model.device):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with quiet_transformers():
            tokens = model.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=longest, max_length=None
            )
        written += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return written, tokenizer.batch_decode(expected, skip_special_tokens=True)


def _batches(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int, device: torch.device | str
) -> Iterator[Batch]:
    for start in range(0, len(rows), batch_size):
        part = rows.select(range(start, min(start + batch_size, len(rows))))
        yield {k: v.to(device) for k, v in collate(tokenizer, list(part)).items()}


def _sum_losses(
    logits: tuple[torch.Tensor, ...], labels: list[torch.Tensor]
) -> tuple[Array, Array]:
    """Return the sum of each row's losses and their number; of several outputs, their mean."""
    losses, counts = [], []
    for row in range(len(labels[0])):
        pairs = [(each[row], label[row]) for each, label in zip(logits, labels, strict=True)]
        sums = [
            # [classes] and a number, or [tokens, classes] and [tokens]
            F.cross_entropy(each.float(), label, ignore_index=IGNORED, reduction="sum")
            for each, label in pairs
        ]
        losses.append(float(sum(sums)) / len(sums))
        counts.append(int((pairs[0][1] != IGNORED).sum()))
    return np.array(losses), np.array(counts)
