"""A metric of the user's own, by its import path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pruning.errors import NirvanaError
from pruning.own_code import import_own

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

    def measure(predictions: Any, labels: Any) -> dict[str, float]:
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
