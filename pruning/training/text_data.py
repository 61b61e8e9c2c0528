"""Text for a task: the embedded set, local files, or anything that `datasets` can load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from pruning.training.collation import collate
from pruning.training.data_config import DataConfig
from pruning.training.data_splits import load_splits, take_splits
from pruning.training.own_metric import Metric, load_metric
from pruning.training.task import Task
from pruning.training.tasks import TASKS, choose_task

__all__ = ["LabelledText", "collate", "load_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """Tokenised rows with labels.

    Attributes:
        labels: the classes' names, none where the task has no classes.
        bytes_per_token: of the validation text, for bits per byte; None for other tasks.
        own_metric: what `metric` of the DataConfig names.
    """

    train: Dataset
    validation: Dataset
    labels: tuple[str, ...] = ()
    task: Task = TASKS["classification"]
    bytes_per_token: float | None = None
    own_metric: Metric | None = None


def load_text(config: DataConfig, tokenizer: Any, own: Task | None = None) -> LabelledText:
    """Load, check and tokenise the data set of `config`.

    `own` is the task of the model's head; it decides where neither the config nor a column of
    classes does.

    Raises:
        NirvanaError: the data set cannot be loaded, a split or column is missing, a value is not
            what the task reads, validation has a class that training lacks, or `metric` cannot be
            imported.
    """
    own_metric = None if config.metric is None else load_metric(config.metric)
    splits = load_splits(config)
    first = splits.get(config.train_split)
    task = choose_task(config, () if first is None else first.column_names, own)
    encoded = task.encode(take_splits(splits, config, task.columns), tokenizer, config)
    return LabelledText(
        train=encoded.train,
        validation=encoded.validation,
        labels=encoded.labels,
        task=task,
        bytes_per_token=encoded.bytes_per_token,
        own_metric=own_metric,
    )
