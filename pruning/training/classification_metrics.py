"""Accuracy and macro-F1 from logits."""

from typing import Any

import numpy as np


def score_classes(prediction: Any) -> dict[str, float]:
    """Return accuracy and macro-F1 (mean over the classes that occur) as fractions.

    `prediction` is a `transformers.EvalPrediction` with logits [rows, classes] and labels [rows].
    """
    predicted, labels = prediction.predictions.argmax(-1), prediction.label_ids
    classes = np.unique(np.concatenate([predicted, labels]))
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(np.mean([_f1(predicted == c, labels == c) for c in classes])),
    }


def _f1(predicted: Any, actual: Any) -> float:
    hits = int((predicted & actual).sum())
    return 2 * hits / int(predicted.sum() + actual.sum())
