"""Accuracy and macro-F1, of rows and of tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pruning.errors import NirvanaError
from pruning.own_code import import_own
from pruning.tasks.task import IGNORED

Metric = Callable[[Any, Any], dict[str, float]]


def load_metric(path: str) -> Metric:
    """Import `package.module:function` and make it say clearly what is wrong with what it returns.

    Raises:
        NirvanaError: there is no such module or function, or it cannot be called.
    """
    found = import_own(path, "metric", "package.module:function")
    if not callable(found):
        raise NirvanaError(
            f"The metric {path!r} is a {type(found).__name__}. Expected a function of predictions "
            "and labels."
        )

    def measure(predictions: object, labels: object) -> dict[str, float]:
        return _check_scores(found(predictions, labels), path)

    return measure


def _check_scores(scores: Any, path: str) -> dict[str, float]:
    fits = isinstance(scores, dict) and all(isinstance(name, str) for name in scores)
    if not fits or not all(_is_number(value) for value in scores.values()):
        raise NirvanaError(
            f"The metric {path!r} returned {str(scores)[:80]}. Expected a dict of names and "
            "numbers, such as {'my_score': 0.5}."
        )
    return {name: float(value) for name, value in scores.items()}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) or (hasattr(value, "item") and not value.ndim)


def score_rouge_l(written: Iterable[str], expected: Iterable[str]) -> float:
    """Return the mean F-measure (precision and recall weigh the same) of pairs of texts, 0..1.

    Words are runs of letters and digits in lower case, without stemming. Two texts without any
    word score 0.
    """
    pairs = list(zip(written, expected, strict=True))
    return sum(_f_measure(_words(a), _words(b)) for a, b in pairs) / max(1, len(pairs))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _f_measure(written: Sequence[str], expected: Sequence[str]) -> float:
    return 2 * longest_common(written, expected) / max(1, len(written) + len(expected))


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    above = [0] * (len(other) + 1)
    for word in one:
        row = [0]
        for column, against in enumerate(other):
            row.append(above[column] + 1 if word == against else max(above[column + 1], row[-1]))
        above = row
    return above[-1]


_LARGEST = 700.0  # exp of more is no float any more


def score_language(loss: float, bytes_per_token: float | None = None) -> dict[str, float]:
    """Return perplexity, and bits per byte where `bytes_per_token` is known.

    `loss` is in nats a token. Bits per byte, `loss / ln 2 * tokens / bytes`, compares models with
    different tokenizers (Gao et al. 2020, The Pile, section 3.1).
    """
    scores = {"perplexity": math.exp(min(loss, _LARGEST))}
    if bytes_per_token:
        scores["bits_per_byte"] = loss / math.log(2) / bytes_per_token
    return scores


def score_spans(prediction: Any) -> dict[str, float]:
    """Return exact match and mean F1 of spans [rows, (first token, last token)], as fractions.

    `prediction` is a `transformers.EvalPrediction` of spans; the labels may also come as a pair of
    arrays, as the Trainer has them.

    F1 is 2 * overlap / (predicted length + true length), in tokens of the input. Spans of tokens
    are compared with the first true answer's: SQuAD's own scores compare normalized words with
    every true answer, and are a little higher. A span that ends before it begins is empty.
    """
    predicted, labels = prediction.predictions, prediction.label_ids
    if isinstance(labels, tuple | list):
        labels = np.stack(labels, -1)
    return {
        "exact_match": float((predicted == labels).all(-1).mean()),
        "f1": float(measure_overlap(predicted, labels).mean()),
    }


def measure_overlap(predicted: Any, labels: Any) -> Any:
    """Return the F1 of each span [rows, (first token, last token)] and its label, from 0 to 1."""
    lengths = [np.maximum(0, spans[:, 1] - spans[:, 0] + 1) for spans in (predicted, labels)]
    first = np.maximum(predicted[:, 0], labels[:, 0])
    last = np.minimum(predicted[:, 1], labels[:, 1])
    return 2 * np.maximum(0, last - first + 1) / (lengths[0] + lengths[1])


def score_classes(prediction: Any) -> dict[str, float]:
    """Return accuracy and macro-F1 (mean over the classes that occur) as fractions.

    `prediction` is a `transformers.EvalPrediction` with logits [rows, classes] and labels [rows].
    """
    return _score(prediction.predictions.argmax(-1), prediction.label_ids)


def score_tags(prediction: Any) -> dict[str, float]:
    """Return the same of tokens, from classes and labels of one shape; IGNORED ones do not count.

    Single tokens are compared, not whole entities as by seqeval.
    """
    counted = prediction.label_ids != IGNORED
    return _score(prediction.predictions[counted], prediction.label_ids[counted])


def _score(predicted: object, labels: Any) -> dict[str, float]:
    if not labels.size:
        return {"accuracy": 0.0, "macro_f1": 0.0}
    classes = np.unique(np.concatenate([predicted, labels]))
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(np.mean([_f1(predicted == c, labels == c) for c in classes])),
    }


def _f1(predicted: Any, actual: Any) -> float:
    hits = int((predicted & actual).sum())
    return 2 * hits / int(predicted.sum() + actual.sum())
