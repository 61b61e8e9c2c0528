"""What rows say of a model beyond a mean: intervals, a table per class, what differs.

Rows are resampled, not tokens: tokens of one row are not independent. The percentile bootstrap
(Efron 1979) draws rows with replacement; the accuracy of rows, a plain proportion, has Wilson's
score interval (1927), which is right also where all rows are right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pruning.tasks.evaluation import RowOutputs
from pruning.tasks.metrics import measure_overlap, score_language, score_rouge_l
from pruning.tasks.task import Task

CONFIDENCE = 0.95
NUM_RESAMPLES = 1_000
_Z = 1.959963984540054  # standard normal, 97.5 %
Floats = NDArray[np.float64]
# Returns the scores of rows that count as often as their weight says.
Weighted = Callable[[Floats], dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """How one class was recognized.

    Precision is None where it was never predicted, recall where no label is of it.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float
    num_labels: int
    num_predicted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """Scores per class, and `confusion[actual][predicted]`: numbers of rows, or of tokens."""

    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]


def choose_classes(outputs: RowOutputs, task: Task) -> list[NDArray[np.int64]]:
    """Return each row's answer as integers: a class, a class or token per label, or a span."""
    if task.has_classes and not task.per_token:
        return [np.atleast_1d(row.argmax(-1)) for row in outputs.predictions]
    return [np.atleast_1d(row).astype(np.int64) for row in outputs.predictions]


def tabulate_classes(outputs: RowOutputs, task: Task, names: Sequence[str]) -> ClassTable:
    """Count answers by actual and predicted class."""
    predicted = np.concatenate(choose_classes(outputs, task))
    actual = np.concatenate([np.atleast_1d(row) for row in outputs.labels])
    size = len(names)
    counts = np.bincount(actual * size + predicted, minlength=size * size).reshape(size, size)
    scores = []
    for number, name in enumerate(names):
        hits, of, guessed = (
            int(counts[number, number]),
            int(counts[number].sum()),
            int(counts[:, number].sum()),
        )
        scores.append(
            ClassScore(
                name=name,
                precision=hits / guessed if guessed else None,
                recall=hits / of if of else None,
                f1=2 * hits / (of + guessed) if of + guessed else 0.0,
                num_labels=of,
                num_predicted=guessed,
            )
        )
    return ClassTable(
        classes=tuple(scores), confusion=tuple(tuple(int(n) for n in row) for row in counts)
    )


def estimate_intervals(
    outputs: RowOutputs, task: Task, *, bytes_per_token: float | None = None, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each score; of one row there is none."""
    num_rows = len(outputs.losses)
    intervals: dict[str, tuple[float, float]] = {}
    if num_rows > 1:
        measure = _weigh(outputs, task, bytes_per_token)
        intervals = bootstrap(measure, num_rows, seed=seed)
    written, expected = outputs.written
    if len(written) > 1:
        each = np.array([score_rouge_l([a], [b]) for a, b in zip(written, expected, strict=True)])
        intervals |= bootstrap(
            lambda w: {"rouge_l": float(w @ each / w.sum())}, len(each), seed=seed
        )
    if "accuracy" in intervals and not task.per_token:
        right = sum(
            int(answer[0] == label)
            for answer, label in zip(choose_classes(outputs, task), outputs.labels, strict=True)
        )
        intervals["accuracy"] = wilson(right, num_rows)
    return intervals


def bootstrap(
    measure: Weighted, num_rows: int, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> dict[str, tuple[float, float]]:
    """Return percentile intervals of what `measure` makes of resampled rows."""
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(num_resamples):
        weights = generator.multinomial(num_rows, np.full(num_rows, 1 / num_rows)).astype(float)
        for name, value in measure(weights).items():
            drawn.setdefault(name, []).append(value)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return {
        name: (float(low), float(high))
        for name, (low, high) in (
            (name, np.nanquantile(values, tails)) for name, values in drawn.items()
        )
    }


def wilson(hits: int, num_rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion."""
    share, z2 = hits / num_rows, _Z**2
    middle = (share + z2 / (2 * num_rows)) / (1 + z2 / num_rows)
    half = (
        _Z
        * math.sqrt(share * (1 - share) / num_rows + z2 / (4 * num_rows**2))
        / (1 + z2 / num_rows)
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def bound_fraction(hits: int, num_rows: int, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided upper bound of a proportion (Clopper and Pearson 1934).

    It is the largest p at which `hits` or fewer of `num_rows` still have the probability
    1 - confidence.
    """
    if hits >= num_rows:
        return 1.0
    low, high = hits / num_rows, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if binomial_cdf(hits, num_rows, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def binomial_cdf(hits: int, num_rows: int, p: float) -> float:
    """Return the probability of `hits` or fewer of `num_rows` draws that each hit with p."""
    if hits >= num_rows or p <= 0:
        return 1.0
    if p >= 1:
        return 0.0
    logs = [
        math.lgamma(num_rows + 1)
        - math.lgamma(k + 1)
        - math.lgamma(num_rows - k + 1)
        + k * math.log(p)
        + (num_rows - k) * math.log1p(-p)
        for k in range(hits + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))


def _weigh(outputs: RowOutputs, task: Task, bytes_per_token: float | None) -> Weighted:
    """Return what scores rows by their weights, in the terms of the task's own score."""
    score_answers = _weigh_answers(outputs, task)

    def measure(weights: Floats) -> dict[str, float]:
        num_labels = float(weights @ outputs.counts)
        loss = float(weights @ outputs.losses) / num_labels if num_labels else math.nan
        scores = {"loss": loss, **score_answers(weights)}
        if task.score is None and num_labels:
            scores |= score_language(loss, bytes_per_token)
        return scores

    return measure


def _weigh_answers(outputs: RowOutputs, task: Task) -> Weighted:
    if task.name == "question-answering":
        spans, labels = np.stack(outputs.predictions), np.stack(outputs.labels)
        exact, overlap = (spans == labels).all(-1).astype(float), measure_overlap(spans, labels)
        return lambda weights: {
            "exact_match": float(weights @ exact / weights.sum()),
            "f1": float(weights @ overlap / weights.sum()),
        }
    if not task.has_classes:
        return lambda _: {}
    answers = choose_classes(outputs, task)
    owner = np.repeat(np.arange(len(answers)), [len(row) for row in answers])
    predicted = np.concatenate(answers)
    actual = np.concatenate([np.atleast_1d(row) for row in outputs.labels])
    size = int(max(predicted.max(initial=0), actual.max(initial=0))) + 1
    right = predicted == actual

    def score(weights: Floats) -> dict[str, float]:
        each = weights[owner]
        if not each.sum():
            return {"accuracy": math.nan, "macro_f1": math.nan}
        hits = np.bincount(actual[right], each[right], size)
        both = np.bincount(actual, each, size) + np.bincount(predicted, each, size)
        f1 = 2 * hits[both > 0] / both[both > 0]
        return {"accuracy": float(each @ right / each.sum()), "macro_f1": float(f1.mean())}

    return score
