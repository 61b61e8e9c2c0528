"""How far apart two sets of outputs are: each output by its own scale, at live positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from exporters.compare.artefact import Array

# R rows of predictions, C classes.

# Masks are written as -inf, or as numbers of this size and more: both count as infinite.
_INFINITE = 1e30
# A quarter of the values of a normal distribution are below 1/12 of the largest of a few thousand.
_QUARTILE_TO_LARGEST = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """What was found for one output, or one tensor of a cache.

    Attributes:
        max_abs: largest absolute difference; infinite where one side is not a number.
        largest: largest finite magnitude in the source.
        gap: absolute difference at the element that a tolerance sees as the worst.
        scale: the magnitude that `gap` is divided by.
        kl: mean KL(source || candidate) in nats; None where the output is not logits of classes.
        agreement: fraction of rows with the same prediction, or a tie; of integers and booleans, of
            equal elements; None for other outputs.
        num_rows: rows (or elements) behind `agreement`.
    """

    output: str
    max_abs: float
    largest: float
    gap: float
    scale: float
    kl: float | None = None
    agreement: float | None = None
    num_rows: int = 0

    @property
    def scaled(self) -> float:
        """The difference that is compared with a tolerance."""
        return self.gap / self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What was found between a source and a candidate, output by output."""

    outputs: tuple[OutputDifference, ...]

    @property
    def worst(self) -> OutputDifference:
        """The output that is the furthest off by its own scale."""
        return max(self.outputs, key=lambda found: found.scaled)

    @property
    def output(self) -> str:
        """Name the worst output."""
        return self.worst.output

    @property
    def max_abs(self) -> float:
        """The largest absolute difference of all outputs."""
        return max(found.max_abs for found in self.outputs)

    @property
    def largest(self) -> float:
        """The largest magnitude of the worst output in the source."""
        return self.worst.largest

    @property
    def scaled(self) -> float:
        """The difference of the worst output, as it is compared with a tolerance."""
        return self.worst.scaled

    @property
    def kl(self) -> float | None:
        """The largest divergence of an output; None without logits."""
        return max((o.kl for o in self.outputs if o.kl is not None), default=None)

    @property
    def agreement(self) -> float | None:
        """The lowest agreement of an output; None without predictions."""
        return min((o.agreement for o in self.outputs if o.agreement is not None), default=None)

    @property
    def num_rows(self) -> int:
        """The number of predictions."""
        return sum(found.num_rows for found in self.outputs)


def measure_difference(
    source: Mapping[str, Array],
    candidate: Mapping[str, Array],
    live: Array | None,
    *,
    tie: float = 0.0,
    smallest_scale: float = 1e-3,
    outlier_share: float = 1e-2,
) -> Difference:
    """Compare the outputs that both have, without those of padding.

    An element's difference is divided by its own magnitude or by the magnitude that is usual in its
    output, whichever is larger: see `_find_scale`. So neither another output nor a few outliers of
    the same one excuse it. Integers and booleans are counted element by element.

    `live` [batch, sequence] is 1 at tokens, 0 at padding; None: all are live. Classes whose logits
    in the source are within `tie` of the largest, scaled as a tolerance is, are as good as it:
    which of them comes first is a matter of rounding.
    """
    return Difference(
        outputs=tuple(
            _measure(name, source[name], candidate[name], live, tie, smallest_scale, outlier_share)
            for name in source
            if name in candidate
        )
    )


def _measure(
    name: str,
    source: Array,
    candidate: Array,
    live: Array | None,
    tie: float,
    smallest_scale: float,
    outlier_share: float,
) -> OutputDifference:
    if _holds_one_class_per_row(name, source):
        live = None
    max_abs, largest = max_difference(source, candidate, live), find_largest(source, live)
    if source.shape != candidate.shape:
        return OutputDifference(
            output=name, max_abs=max_abs, largest=largest, gap=max_abs, scale=1.0
        )
    if _is_exact(source) and _is_exact(candidate):
        same = keep_live(source, live) == keep_live(candidate, live)
        return OutputDifference(
            output=name,
            max_abs=max_abs,
            largest=largest,
            gap=0.0,  # `agreement` judges it
            scale=1.0,
            agreement=float(same.mean()) if same.size else None,
            num_rows=int(same.size),
        )
    gap, scale = _find_worst_element(source, candidate, live, smallest_scale, outlier_share)
    kl, same_rows, num_rows = None, 0, 0
    if is_logits(name, source):
        rows = list_rows(source, live), list_rows(candidate, live)
        num_rows = len(rows[0])
        kl = float(_divergence(*rows).mean()) if num_rows else None
        same_rows = _count_same(*rows, tie * max(smallest_scale, largest))
    return OutputDifference(
        output=name,
        max_abs=max_abs,
        largest=largest,
        gap=gap,
        scale=scale,
        kl=kl,
        agreement=same_rows / num_rows if num_rows else None,
        num_rows=num_rows,
    )


def is_logits(name: str, values: Array) -> bool:
    """Return whether an output holds logits of two classes or more, or of where an answer is.

    One number a row is a regression: it has no class that could be the same.
    """
    named = any(word in name.lower() for word in ("logit", "score"))
    return named and values.ndim > 1 and values.shape[-1] > 1


def max_difference(source: Array, candidate: Array, live: Array | None) -> float:
    """Return the largest difference at live positions; equal infinities do not differ."""
    if source.shape != candidate.shape:
        return math.inf
    return float(_find_gaps(keep_live(source, live), keep_live(candidate, live)).max(initial=0.0))


def find_largest(values: Array, live: Array | None) -> float:
    """Return the largest finite magnitude at live positions."""
    kept = np.abs(keep_live(values, live).astype(np.float64))
    return float(kept[kept < _INFINITE].max(initial=0.0))


def list_rows(logits: Array, live: Array | None) -> Array:
    """Return the distributions in logits, [R, C].

    Logits that have one number a token (where an answer starts) are one distribution a row of the
    batch, over its live tokens.
    """
    logits = logits.astype(np.float64)
    if live is not None and logits.shape == live.shape:
        return np.where(live.astype(bool), logits, -_INFINITE)
    return keep_live(logits, live).reshape(-1, logits.shape[-1])


def keep_live(values: Array, live: Array | None) -> Array:
    """Return the values at live tokens; all where there is not one for each token."""
    per_token = live is not None and values.shape[:2] == live.shape
    return values[live.astype(bool)] if per_token and live is not None else values


def _holds_one_class_per_row(name: str, values: Array) -> bool:
    """Return whether [batch, classes] might be mistaken for [batch, sequence]."""
    is_span = any(word in name.lower() for word in ("start", "end"))
    return values.ndim == 2 and "logit" in name.lower() and not is_span


def _is_exact(values: Array) -> bool:
    return values.dtype.kind in "biu"


def _find_gaps(left: Array, right: Array) -> Array:
    """Return absolute differences; infinite where one side is NaN, or only one is infinite."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gaps = np.where(_is_same(left, right), 0.0, np.abs(left - right))
    return np.where(np.isnan(gaps), math.inf, gaps)


def _is_same(left: Array, right: Array) -> Array:
    both_infinite = (np.abs(left) >= _INFINITE) & (np.abs(right) >= _INFINITE)
    equal: Array = (left == right) | (both_infinite & (np.sign(left) == np.sign(right)))
    return equal


def _find_worst_element(
    source: Array,
    candidate: Array,
    live: Array | None,
    smallest_scale: float,
    outlier_share: float,
) -> tuple[float, float]:
    """Return the difference and the scale of the element whose ratio of the two is the largest."""
    left, right = keep_live(source, live), keep_live(candidate, live)
    gaps = _find_gaps(left, right).ravel()
    sizes = np.abs(left.astype(np.float64)).ravel()
    usual = _find_scale(sizes, smallest_scale, outlier_share)
    if not gaps.size:
        return 0.0, usual
    scales = np.where(sizes < _INFINITE, np.maximum(sizes, usual), usual)
    worst = int(np.argmax(gaps / scales))
    return float(gaps[worst]), float(scales[worst])


def _find_scale(sizes: Array, smallest_scale: float, outlier_share: float) -> float:
    """Return the magnitude that is usual among `sizes`: the largest, but for outliers.

    Of values without outliers this is the largest. One channel of 20,000 beside embeddings of 0.4
    makes a lower quartile of 0.1, so that the scale is 12 x 0.1 = 1.2 for all but that channel; it
    is never less than `outlier_share` of the largest, whose rounding reaches its neighbors.
    """
    finite = sizes[(sizes < _INFINITE) & (sizes > 0)]
    if not finite.size:
        return smallest_scale
    largest = float(finite.max())
    usual = _QUARTILE_TO_LARGEST * float(np.quantile(finite, 0.25))
    return max(smallest_scale, min(largest, max(usual, outlier_share * largest)))


def _count_same(source_RC: Array, candidate_RC: Array, margin: float) -> int:
    chosen_R1 = candidate_RC.argmax(-1)[:, None]
    lost_R = source_RC.max(-1) - np.take_along_axis(source_RC, chosen_R1, axis=-1)[:, 0]
    return int((lost_R <= margin).sum())


def _divergence(source_RC: Array, candidate_RC: Array) -> Array:
    log_p, log_q = _log_softmax(source_RC), _log_softmax(candidate_RC)
    # A negative sum is rounding.
    kl_R = np.maximum(0.0, np.where(log_p > -1e29, np.exp(log_p) * (log_p - log_q), 0.0).sum(-1))
    return np.where(np.isfinite(kl_R), kl_R, math.inf)


def _log_softmax(logits_RC: Array) -> Array:
    shifted = logits_RC - logits_RC.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
