"""What is to be known of a task: its head, its columns, its scores. Records are in tasks.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from pruning.tasks.data_config import TaskName

IGNORED = -100  # torch's and transformers' default `ignore_index`


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRows:
    """Tokenised rows of one task.

    Attributes:
        labels: the classes' names, none where the task has no classes.
        bytes_per_token: UTF-8 bytes of the validation text for each of its tokens; for tasks that
            predict every token.
    """

    train: Dataset
    validation: Dataset
    labels: tuple[str, ...] = ()
    bytes_per_token: float | None = None


Outputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A kind of work that a model's head does.

    Attributes:
        auto_class: transformers' class that puts the head on a model.
        columns: the fields of DataConfig that name the columns it reads.
        encode: makes tokens and labels of raw rows (splits, tokenizer, config); where the task
            has classes also given a fine-tuned model's names.
        metric: what is looked at first of the scores; higher or lower is better.
        score: makes scores of a `transformers.EvalPrediction`; None: the loss says it all, and
            predictions of all rows, a number a word of the vocabulary, would fill the memory.
        predict: makes predictions of what the model returned, small enough to keep for all rows.
        outputs: what the model returns that counts, by name.
        label_columns: of a batch.
        has_classes: the head's size is the number of the data's classes.
        head_size: the head's size where the task fixes it.
        trains_head: fine-tuning may begin with a fresh head; a language model brings its own.
        per_token: there is a label for each token; those that are IGNORED do not count.
        shifted: the label of a token is the prediction of the one before.
        writes: the model writes texts, which are compared with the expected ones.
        evaluation_batch_size: rows that are scored at once.
    """

    name: TaskName
    auto_class: Any
    columns: tuple[str, ...]
    encode: Callable[..., EncodedRows]
    metric: str
    higher_is_better: bool
    predict: Callable[[Outputs], torch.Tensor]
    score: Callable[[Any], dict[str, float]] | None = None
    outputs: tuple[str, ...] = ("logits",)
    label_columns: tuple[str, ...] = ("labels",)
    has_classes: bool = False
    head_size: int | None = None
    trains_head: bool = True
    per_token: bool = False
    shifted: bool = False
    writes: bool = False
    evaluation_batch_size: int = 64

    @property
    def reads_tokens(self) -> bool:
        """Return whether the head gives numbers for each token of the input."""
        return (self.per_token or len(self.outputs) > 1) and not self.writes
