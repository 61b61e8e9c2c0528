"""Accuracy and macro-F1, of rows and of tokens."""

from typing import Any

import numpy as np

from pruning.training.loss_labels import IGNORED


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


def _score(predicted: Any, labels: Any) -> dict[str, float]:
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
