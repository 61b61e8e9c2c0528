"""How well predicted answer spans cover the true ones, counted in tokens."""

from typing import Any

import numpy as np


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
    lengths = [np.maximum(0, spans[:, 1] - spans[:, 0] + 1) for spans in (predicted, labels)]
    first = np.maximum(predicted[:, 0], labels[:, 0])
    last = np.minimum(predicted[:, 1], labels[:, 1])
    overlap = np.maximum(0, last - first + 1)
    return {
        "exact_match": float((predicted == labels).all(-1).mean()),
        "f1": float((2 * overlap / (lengths[0] + lengths[1])).mean()),
    }
