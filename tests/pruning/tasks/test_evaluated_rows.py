"""Intervals, tables and bounds against other libraries, or against draws whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from pruning.tasks.evaluated_rows import (
    _weigh,
    binomial_cdf,
    bootstrap,
    bound_fraction,
    estimate_intervals,
    tabulate_classes,
    wilson,
)
from pruning.tasks.evaluation import RowOutputs, score_rows
from pruning.tasks.task import IGNORED
from pruning.tasks.tasks import TASKS

NAMES = ("a", "b", "c", "never")


def draw_classes(num_rows: int, seed: int = 0) -> RowOutputs:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, num_rows)
    logits = draw.normal(size=(num_rows, 4)) + 1.5 * np.eye(4)[labels]
    logits[:, 3] -= 9
    return RowOutputs(
        losses=draw.random(num_rows),
        counts=np.ones(num_rows, int),
        predictions=list(logits),
        labels=[np.asarray(label) for label in labels],
    )


def draw_tags(num_rows: int) -> RowOutputs:
    draw = np.random.default_rng(1)
    lengths = draw.integers(0, 9, num_rows)
    labels = [draw.integers(0, 3, length) for length in lengths]
    answers = [np.where(draw.random(len(row)) < 0.7, row, 2 - row) for row in labels]
    return RowOutputs(
        losses=lengths * draw.random(num_rows), counts=lengths, predictions=answers, labels=labels
    )


def test_the_table_is_that_of_scikit_learn() -> None:
    outputs = draw_classes(300)
    table = tabulate_classes(outputs, TASKS["classification"], NAMES)
    actual = [int(label) for label in outputs.labels]
    predicted = [int(row.argmax()) for row in outputs.predictions]
    assert np.array_equal(table.confusion, confusion_matrix(actual, predicted, labels=range(4)))
    theirs = precision_recall_fscore_support(actual, predicted, labels=range(4), zero_division=0)
    for number, ours in enumerate(table.classes):
        assert ours.name == NAMES[number]
        assert (ours.precision or 0, ours.recall or 0, ours.f1) == pytest.approx(
            [column[number] for column in theirs[:3]]
        )
        assert ours.num_labels == theirs[3][number]
    assert table.classes[3].precision is None
    assert table.classes[3].recall is None


def test_tags_are_counted_by_token() -> None:
    outputs = draw_tags(40)
    table = tabulate_classes(outputs, TASKS["token-classification"], NAMES[:3])
    assert sum(map(sum, table.confusion)) == sum(len(row) for row in outputs.labels)


@pytest.mark.parametrize("task", ["classification", "token-classification"])
def test_intervals_hold_the_scores(task: str) -> None:
    outputs = draw_classes(200) if task == "classification" else draw_tags(200)
    scores = score_rows(outputs, TASKS[task])
    intervals = estimate_intervals(outputs, TASKS[task])
    assert set(intervals) == set(scores) == {"accuracy", "macro_f1", "loss"}
    for name, (low, high) in intervals.items():
        assert low < scores[name] < high
        assert high - low < 0.25


def test_whole_weights_give_the_scores_themselves() -> None:
    """Where each row is drawn once, the resampled score is the task's own."""
    for task, outputs in (
        ("classification", draw_classes(90)),
        ("token-classification", draw_tags(90)),
    ):
        measured = _weigh(outputs, TASKS[task], None)(np.ones(90))
        assert measured == pytest.approx(score_rows(outputs, TASKS[task]))


def test_spans_and_perplexity_have_intervals() -> None:
    draw = np.random.default_rng(0)
    spans = np.sort(draw.integers(0, 9, (50, 2)))
    others = np.sort(draw.integers(0, 9, (50, 2)))
    labels = np.where(draw.random((50, 1)) < 0.5, spans, others)
    answers = RowOutputs(
        losses=draw.random(50), counts=np.ones(50, int), predictions=[*spans], labels=[*labels]
    )
    task = TASKS["question-answering"]
    intervals = estimate_intervals(answers, task)
    for name, value in score_rows(answers, task).items():
        assert intervals[name][0] <= value <= intervals[name][1]
    tokens = RowOutputs(
        losses=np.full(50, 3.0),
        counts=np.full(50, 2),
        predictions=[np.zeros(2, int)] * 50,
        labels=[np.zeros(2, int)] * 50,
    )
    found = estimate_intervals(tokens, TASKS["causal-lm"], bytes_per_token=4.0)
    assert found["perplexity"] == pytest.approx((math.exp(1.5), math.exp(1.5)))
    assert found["bits_per_byte"] == pytest.approx([1.5 / math.log(2) / 4] * 2)


def test_one_row_has_no_interval() -> None:
    assert estimate_intervals(draw_classes(1), TASKS["classification"]) == {}


def test_the_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    draw, covered = np.random.default_rng(3), 0
    for number in range(200):
        values = draw.exponential(size=60)
        (low, high) = bootstrap(
            lambda w, values=values: {"mean": float(w @ values / w.sum())},
            60,
            seed=number,
            num_resamples=200,
        )["mean"]
        covered += low <= 1.0 <= high
    assert 0.86 <= covered / 200 <= 0.99


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (0, 50), (3, 50), (50, 50), (499, 500)])
def test_bounds_are_those_of_scipy(hits: int, rows: int) -> None:
    theirs = stats.binomtest(hits, rows).proportion_ci(0.95, method="wilson")
    assert wilson(hits, rows) == pytest.approx((theirs.low, theirs.high))
    exact = 1.0 if hits == rows else stats.beta.ppf(0.95, hits + 1, rows - hits)
    assert bound_fraction(hits, rows) == pytest.approx(exact, abs=1e-9)
    for p in (0.0, 0.01, 0.3, 0.99, 1.0):
        assert binomial_cdf(hits, rows, p) == pytest.approx(stats.binom.cdf(hits, rows, p))


def test_rows_without_a_label_that_counts_are_refused() -> None:
    from pruning.errors import NirvanaError

    empty = np.zeros(0, int)
    none = RowOutputs(
        losses=np.zeros(2), counts=np.zeros(2, int), predictions=[empty] * 2, labels=[empty] * 2
    )
    assert IGNORED < 0
    with pytest.raises(NirvanaError, match="nothing to score"):
        score_rows(none, TASKS["token-classification"])
