"""Scores any artifact on labelled rows, alone or beside a baseline.

Answers are compared by the names of the classes: two models may number them differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from nirvana_deploy.serving.loaded.open_model import OpenModel, open_model
from pruning.errors import NirvanaError
from pruning.progress import Progress, show_nothing
from pruning.tasks.data_config import DataConfig
from pruning.tasks.evaluated_rows import (
    CONFIDENCE,
    ClassTable,
    bound_fraction,
    choose_classes,
    estimate_intervals,
    tabulate_classes,
)
from pruning.tasks.evaluation import RowOutputs, run_rows, score_rows, write_texts
from pruning.tasks.metrics import measure_overlap
from pruning.tasks.tasks import check_kind, settle_padding
from pruning.tasks.text_data import LabelledText, load_scored_text

# By default rows are cut here, where the model takes longer ones: a batch must fit into memory.
LONGEST_BY_DEFAULT = 512
_MOST_SHOWN = 1_000  # of the rows that changed; all are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One score of all rows, with its 95 % interval; of a single row there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedRow:
    """A row that is answered differently. `row` counts from 0; for tokens, `place` does so, too."""

    row: int
    place: int
    text: str
    label: str
    baseline: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What differs from a baseline.

    Attributes:
        num_rows: Rows whose answer differs; of tasks with a label per token, in one token or more.
        fraction: Of all rows.
        at_most: One-sided 95 % bound of that fraction (Clopper-Pearson), for rows like these.
        rows: The first of them, one line per answer.
    """

    baseline: str
    num_rows: int
    fraction: float
    at_most: float
    scores: Mapping[str, Score]
    rows: tuple[ChangedRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvaluation:
    """The scores of one artifact.

    Attributes:
        metric: The score that is looked at first.
        num_cut: Rows that have `max_length` tokens or more, and were cut there.
        table: Scores per class and the confusion; None where the task has no classes.
    """

    model: str
    dataset: str
    task: str
    metric: str
    num_rows: int
    max_length: int
    num_cut: int
    scores: Mapping[str, Score]
    table: ClassTable | None = None
    changes: Changes | None = None
    confidence: float = CONFIDENCE

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRun:
    """A model, the rows as it reads them, and what it made of each."""

    model: OpenModel
    text: LabelledText
    outputs: RowOutputs
    max_length: int
    scores: Mapping[str, Score]


def evaluate_model(
    source: str,
    data: DataConfig,
    *,
    baseline: str | None = None,
    texts: Path | None = None,
    longest: int | None = None,
    batch_size: int | None = None,
    progress: Progress = show_nothing,
) -> ModelEvaluation:
    """Score an artifact, and compare its answers with those of `baseline`; see `api.evaluate`."""
    runs = [
        run_model(each, data, texts, longest, batch_size, progress)
        for each in (source, baseline)
        if each is not None
    ]
    run, *others = runs
    task = run.text.task
    num_tokens = [len(row) for row in run.text.validation["input_ids"]]
    return ModelEvaluation(
        model=source,
        dataset=data.dataset,
        task=task.name,
        metric=task.metric,
        num_rows=len(num_tokens),
        max_length=run.max_length,
        num_cut=sum(n >= run.max_length for n in num_tokens) if task.name != "causal-lm" else 0,
        scores=run.scores,
        table=tabulate_classes(run.outputs, task, run.text.labels) if task.has_classes else None,
        changes=_compare(run, others[0]) if others else None,
    )


def run_model(
    source: str,
    data: DataConfig,
    texts: Path | None,
    longest: int | None,
    batch_size: int | None,
    progress: Progress,
) -> ModelRun:
    """Run an artifact on labelled rows, and score them."""
    model = open_model(source, texts)
    limit = longest or min(model.max_length or LONGEST_BY_DEFAULT, LONGEST_BY_DEFAULT)
    if model.max_length is not None and limit > model.max_length:
        raise NirvanaError(
            f"data.max_length is {limit}, and {source} takes at most {model.max_length} tokens. "
            "Lower data.max_length."
        )
    text = load_scored_text(replace(data, max_length=limit), model.tokenizer, model.task, model)
    task = text.task
    _check_head(model, text)
    rows = text.validation
    if task.writes and model.kind != "checkpoint":  # its decoder takes tokens, and no labels
        outputs = RowOutputs(losses=np.zeros(0), counts=np.zeros(0), predictions=[], labels=[])
    else:
        outputs = run_rows(
            model.call,
            rows,
            model.tokenizer,
            task,
            batch_size=batch_size,
            on_rows=lambda done: progress(f"evaluate {source}", done, len(rows)),
        )
    if task.writes:
        if model.kind == "engine":
            raise NirvanaError(
                f"{source} is an engine, which writes no texts by itself, and {task.name} is "
                "scored by them. Evaluate the ONNX files that it was built from."
            )
        outputs = replace(outputs, written=write_texts(model.call, rows, model.tokenizer, task))
    values = score_rows(
        outputs, task, bytes_per_token=text.bytes_per_token, own_metric=text.own_metric
    )
    _refuse_nan(values, source)
    intervals = estimate_intervals(outputs, task, bytes_per_token=text.bytes_per_token)
    scores = {
        name: Score(value=value, low=low, high=high)
        for name, value in values.items()
        for low, high in (intervals.get(name, (None, None)),)
    }
    return ModelRun(model=model, text=text, outputs=outputs, max_length=limit, scores=scores)


def _check_head(model: OpenModel, text: LabelledText) -> None:
    """Refuse a head whose answers are no classes, and find the padding that a decoder looks for."""
    check_kind(text.task, model.config)
    if model.kind == "checkpoint":
        settle_padding(text.task, model.call, model.tokenizer)


def _refuse_nan(scores: Mapping[str, float], source: str) -> None:
    wrong = [name for name, value in scores.items() if not np.isfinite(value)]
    if wrong:
        raise NirvanaError(
            f"{source} computes NaN or infinity: its {wrong[0]} is {scores[wrong[0]]}. Look for "
            "weights that are not finite, or for a precision that overflows."
        )


def _compare(run: ModelRun, baseline: ModelRun) -> Changes:
    sides = [name_answers(each) for each in (run, baseline)]
    labels = _name_labels(run)
    if [len(row) for row in sides[0]] != [len(row) for row in sides[1]]:
        raise NirvanaError(
            f"{run.model.name} and {baseline.model.name} cut the rows into different tokens, so "
            "their answers cannot be compared one by one. Compare models of one tokenizer, or "
            "evaluate each alone."
        )
    differing = [
        (row, place)
        for row, (ours, theirs) in enumerate(zip(*sides, strict=True))
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True))
        if a != b
    ]
    changed = sorted({row for row, _ in differing})
    num_rows = len(sides[0])
    shown = _show_rows(run.text.validation, run.model.tokenizer, changed)
    return Changes(
        baseline=baseline.model.name,
        num_rows=len(changed),
        fraction=len(changed) / num_rows,
        at_most=bound_fraction(len(changed), num_rows),
        scores=baseline.scores,
        rows=tuple(
            ChangedRow(
                row=row,
                place=place,
                text=shown[row],
                label=labels[row][place],
                baseline=sides[1][row][place],
                answer=sides[0][row][place],
            )
            for row, place in differing[:_MOST_SHOWN]
        ),
    )


def score_answers(run: ModelRun) -> list[float]:
    """Return how much of each row is answered rightly, from 0 to 1."""
    labels = run.outputs.labels
    if run.text.task.name == "question-answering":
        return [
            float(score)
            for score in measure_overlap(np.stack(run.outputs.predictions), np.stack(labels))
        ]
    answers = choose_classes(run.outputs, run.text.task)
    return [
        float((answer == np.atleast_1d(label)).mean()) if len(answer) else 1.0
        for answer, label in zip(answers, labels, strict=True)
    ]


def name_answers(run: ModelRun) -> list[list[str]]:
    """Return the answers of each row by name: a class, one per label, or a span."""
    if run.text.task.writes:
        return [[written] for written in run.outputs.written[0]]
    return [_name(each, run) for each in choose_classes(run.outputs, run.text.task)]


def _name_labels(run: ModelRun) -> list[list[str]]:
    if run.text.task.writes:
        return [[expected] for expected in run.outputs.written[1]]
    return [_name(np.atleast_1d(each), run) for each in run.outputs.labels]


def _name(answer: Any, run: ModelRun) -> list[str]:
    task, names = run.text.task, run.text.labels
    if task.has_classes:
        return [names[number] for number in answer]
    if task.name == "question-answering":  # one answer: the span
        return ["-".join(map(str, answer))]
    return list(map(str, run.model.tokenizer.convert_ids_to_tokens(list(answer))))


def _show_rows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, numbers: Sequence[int]
) -> dict[int, str]:
    wanted = list(numbers[:_MOST_SHOWN])
    tokens = rows.select(wanted)["input_ids"] if wanted else []
    texts = tokenizer.batch_decode(list(tokens), skip_special_tokens=True) if wanted else []
    return dict(zip(wanted, texts, strict=True))
