"""Text for a task: the embedded set, local files, or anything that `datasets` can load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.errors import NirvanaError
from pruning.tasks.class_names import ClassNames, are_unnamed, list_first
from pruning.tasks.class_rows import read_classes, read_tags
from pruning.tasks.collation import collate
from pruning.tasks.data_config import DataConfig, find_columns
from pruning.tasks.data_splits import (
    Splits,
    load_scored_rows,
    load_splits,
    require_columns,
    require_text,
    take_splits,
)
from pruning.tasks.metrics import Metric, load_metric
from pruning.tasks.task import Task
from pruning.tasks.tasks import TASKS, choose_task

__all__ = ["LabelledText", "collate", "load_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """Tokenised rows with labels.

    Attributes:
        labels: the classes' names, none where the task has no classes.
        bytes_per_token: of the validation text, for bits per byte; None for other tasks.
        own_metric: what `metric` of the DataConfig names.
        told: see `FoundText`.
    """

    train: Dataset
    validation: Dataset
    labels: tuple[str, ...] = ()
    task: Task = TASKS["classification"]
    bytes_per_token: float | None = None
    own_metric: Metric | None = None
    told: tuple[str, ...] = ()


def load_text(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    own: Task | None = None,
    model: PreTrainedModel | None = None,
) -> LabelledText:
    """Load, check and tokenise the data set of `config`.

    `own` is the task of the model's head; it decides where neither the config nor a column of
    classes does. The classes are numbered as those of `model` are, a fine-tuned one; without it,
    as the data set declares them, or sorted.

    Raises:
        NirvanaError: the data set cannot be loaded, a split or column is missing, a value is not
            what the task reads, the classes do not fit (see `number_classes`), or `metric` cannot
            be imported.
    """
    own_metric = None if config.metric is None else load_metric(config.metric)
    config, task, splits = _take(config, own)
    names = _own_classes(task, own, model)
    text = _encode(config, task, splits, tokenizer, names, own_metric)
    return replace(text, told=tuple(_describe(config, task, splits, text.labels, names)))


def load_scored_text(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, own: Task | None, model: Any = None
) -> LabelledText:
    """Load the rows that a finished model is scored on (see `load_scored_rows`), as `load_text`.

    `model` has the config of the model, with its class names.

    Raises:
        NirvanaError: see `load_text`; besides, the model's head is for another task.
    """
    own_metric = None if config.metric is None else load_metric(config.metric)
    splits = load_scored_rows(config)
    columns = splits.validation.column_names
    config = find_columns(config, columns)
    task = choose_task(config, columns, own)
    require_columns(splits.validation, config, task.columns)
    if own is not None and own is not task:
        raise NirvanaError(
            f"{config.dataset} has rows of {task.name}, and the model's head is for {own.name}. "
            "Set data.task or the columns, or give rows for that task."
        )
    names = name_model_classes(model) if task.has_classes and model is not None else None
    if task.name == "causal-lm":  # its rows are cut from one stream, not row by row
        splits = replace(splits, train=splits.validation)
    return _encode(config, task, splits, tokenizer, names, own_metric)


def _encode(
    config: DataConfig,
    task: Task,
    splits: Splits,
    tokenizer: PreTrainedTokenizerBase,
    names: tuple[str, ...] | None,
    own_metric: Metric | None,
) -> LabelledText:
    """Tokenise the splits; classes are numbered as in `names`, where there are any."""
    encoded = task.encode(splits, tokenizer, config, *([names] if task.has_classes else []))
    return LabelledText(
        train=encoded.train,
        validation=encoded.validation,
        labels=encoded.labels,
        task=task,
        bytes_per_token=encoded.bytes_per_token,
        own_metric=own_metric,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundText:
    """What a data set was found to be, before any work.

    Attributes:
        num_rows: Training rows; None for a causal-lm, where the tokens decide it.
        told: Lines for the user: task, columns, classes and rows, none of which may be a surprise.
    """

    num_rows: int | None
    told: tuple[str, ...]


def check_text(
    config: DataConfig,
    own: Task | None,
    model: PreTrainedModel | None = None,
    loaded: Mapping[str, Dataset] | None = None,
) -> FoundText:
    """Refuse rows that do not fit, before any work; see `load_text`.

    `loaded` are the splits where they are loaded already.

    Raises:
        NirvanaError: see `load_text`. Tasks without classes have theirs checked when they are
            encoded.
    """
    config, task, splits = _take(config, own, loaded)
    names = _own_classes(task, own, model)
    classes: ClassNames | None = None
    if task.name == "classification":
        classes = read_classes(splits, config, names)
    elif task.name == "token-classification":
        classes = read_tags(splits, config, names)
    if "text_column" in task.columns:
        for split, rows in (
            (config.train_split, splits.train),
            (config.validation_split, splits.validation),
        ):
            require_text(rows[config.text_column], config.text_column, split)
    return FoundText(
        num_rows=None if task.name == "causal-lm" else len(splits.train),
        told=tuple(_describe(config, task, splits, classes.labels if classes else (), names)),
    )


def _describe(
    config: DataConfig,
    task: Task,
    splits: Splits,
    labels: tuple[str, ...],
    model: tuple[str, ...] | None,
) -> Iterator[str]:
    columns = ", ".join(f"{name} {getattr(config, name)!r}" for name in task.columns)
    rows = f"{len(splits.train)} training and {len(splits.validation)} validation rows"
    named = f" with {len(labels)} classes ({list_first(labels, 10)})" if labels else ""
    yield f"data: {task.name} by {columns}{named}, {rows}"
    if model is not None and are_unnamed(model) and labels != model:
        yield (
            "data: the model does not name its classes; they are taken in the order that the data "
            f"set declares: {list_first(labels, 10)}"
        )
    if model is None and "-1" in labels:
        yield (
            "data: -1 counts as a class of its own; if it marks rows without a label, remove them"
        )


def _own_classes(
    task: Task, own: Task | None, model: PreTrainedModel | None
) -> tuple[str, ...] | None:
    """Return the model's class names, where its head is for the task."""
    fits = task.has_classes and model is not None and own is task
    return name_model_classes(model) if fits and model is not None else None


def name_model_classes(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the class names of a model, in the order of its outputs.

    Raises:
        NirvanaError: it has another number of names than of classes.
    """
    config: Any = model.config
    names = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    if sorted(names) != list(range(config.num_labels)) or len(set(names.values())) < len(names):
        raise NirvanaError(
            f"The model's config names the classes {names} in id2label, expected one name of its "
            f"own for each of {config.num_labels} classes from 0 on. Correct it."
        )
    return tuple(names[number] for number in range(config.num_labels))


def _take(
    config: DataConfig, own: Task | None, loaded: Mapping[str, Dataset] | None = None
) -> tuple[DataConfig, Task, Splits]:
    """Load the rows; return the config with the columns named, the task, and the two splits."""
    splits = load_splits(config) if loaded is None else loaded
    first = splits.get(config.train_split)
    columns = () if first is None else first.column_names
    config = find_columns(config, columns)
    task = choose_task(config, columns, own)
    return config, task, take_splits(splits, config, task.columns)
