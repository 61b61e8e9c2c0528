import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pruning.errors import NirvanaError
from pruning.tasks.data_config import DataConfig
from pruning.tasks.metrics import (
    load_metric,
    longest_common,
    score_language,
    score_rouge_l,
    score_spans,
    score_tags,
)


def test_tags_are_scored_without_those_that_do_not_count() -> None:
    draw = np.random.default_rng(0)
    predicted, labels = draw.integers(0, 4, (5, 9)), draw.integers(0, 4, (5, 9))
    labels[:, 6:] = -100
    scores = score_tags(SimpleNamespace(predictions=predicted, label_ids=labels))
    flat = labels[:, :6].flatten(), predicted[:, :6].flatten()
    assert scores["accuracy"] == pytest.approx(accuracy_score(*flat))
    assert scores["macro_f1"] == pytest.approx(f1_score(*flat, average="macro"))


def test_spans_are_scored_by_their_overlap() -> None:
    predicted = np.array([[2, 4], [7, 3], [1, 6], [0, 0], [7, 9]])
    labels = np.array([[2, 4], [3, 5], [5, 6], [0, 0], [1, 2]])
    scores = score_spans(SimpleNamespace(predictions=predicted, label_ids=labels))
    f1 = []
    for (a, b), (c, d) in zip(predicted, labels, strict=True):
        one, other = set(range(a, b + 1)), set(range(c, d + 1))
        f1.append(2 * len(one & other) / (len(one) + len(other)))
    assert scores == {"exact_match": pytest.approx(2 / 5), "f1": pytest.approx(np.mean(f1))}
    columns = SimpleNamespace(predictions=predicted, label_ids=(labels[:, 0], labels[:, 1]))
    assert score_spans(columns) == scores


def test_rouge_l_is_that_of_the_paper() -> None:
    # Lin 2004, section 3.1: LCS of 3 and of 2 words out of 4.
    expected = "police killed the gunman"
    assert score_rouge_l(["police kill the gunman"], [expected]) == pytest.approx(3 / 4)
    assert score_rouge_l(["the gunman kill police"], [expected]) == pytest.approx(2 / 4)
    # Precision 2/3, recall 2/5; case and marks do not count.
    assert score_rouge_l(["The, CAT!  runs"], ["a the-big cat sat"]) == pytest.approx(
        2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5)
    )
    assert score_rouge_l(["", "same"], ["", "same"]) == pytest.approx(1 / 2)


def test_the_longest_common_subsequence_is_the_one_of_all_subsequences() -> None:
    from itertools import combinations

    draw = np.random.default_rng(0)
    for _ in range(20):
        one, other = (list(draw.choice(list("abc"), size=6)) for _ in range(2))
        subsequences = [{c for n in range(7) for c in combinations(w, n)} for w in (one, other)]
        assert longest_common(one, other) == max(map(len, subsequences[0] & subsequences[1]))


def test_perplexity_and_bits_per_byte() -> None:
    # Guessing evenly among 256 tokens, each of 2 bytes, is 4 bits a byte.
    scores = score_language(math.log(256), bytes_per_token=2.0)
    assert scores == {"perplexity": pytest.approx(256), "bits_per_byte": pytest.approx(4)}
    assert set(score_language(1.0)) == {"perplexity"}
    assert math.isfinite(score_language(1e6)["perplexity"])


def half(predictions: Any, labels: Any) -> Any:
    return {"half": np.float32(0.5), "rows": 3}


def wordy(predictions: Any, labels: Any) -> Any:
    return {"half": "a"}


def bare(predictions: Any, labels: Any) -> Any:
    return 0.5


NUMBER = 3


def test_a_metric_of_ones_own_is_imported() -> None:
    assert load_metric(f"{__name__}:half")(None, None) == {"half": 0.5, "rows": 3.0}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:f", "cannot be imported: No module named.*PYTHONPATH"),
        (f"{__name__}:gone", "cannot be imported.*gone"),
        (f"{__name__}:NUMBER", "is a int. Expected a function"),
    ],
)
def test_a_metric_that_is_none_is_refused(path: str, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        load_metric(path)


@pytest.mark.parametrize("name", ["wordy", "bare"])
def test_a_metric_that_returns_no_numbers_is_refused(name: str) -> None:
    with pytest.raises(NirvanaError, match=r"returned .*Expected a dict of names and numbers"):
        load_metric(f"{__name__}:{name}")(None, None)


@pytest.mark.parametrize("path", ["sklearn", "sklearn:", ":f"])
def test_a_metric_is_a_module_and_a_function(path: str) -> None:
    with pytest.raises(NirvanaError, match=r"metric must be package\.module:function"):
        DataConfig(metric=path)
