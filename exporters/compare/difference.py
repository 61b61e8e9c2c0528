"""How far apart two sets of outputs are, where they mean something."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from exporters.compare.artefact import Array

# R rows of predictions, C classes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What was found between a source and a candidate.

    Attributes:
        max_abs: the largest absolute difference; infinite where one side is no number.
        largest: the largest magnitude in the source.
        kl: mean KL(source || candidate) of the logits in nats; None where nothing is a logit.
        agreement: fraction of rows of logits whose largest class is the same, or a tie.
        num_rows: of logits.
        output: where `max_abs` is.
    """

    max_abs: float
    largest: float
    kl: float | None
    agreement: float | None
    num_rows: int
    output: str

    @property
    def relative(self) -> float:
        """The largest difference over the largest value."""
        return self.max_abs / self.largest if self.largest else self.max_abs

    @property
    def scaled(self) -> float:
        """What a tolerance is held against: relative where values are above 1, else absolute."""
        return self.max_abs / max(1.0, self.largest)


def measure_difference(
    source: Mapping[str, Array],
    candidate: Mapping[str, Array],
    live: Array | None,
    *,
    tie: float = 0.0,
) -> Difference:
    """Compare the outputs that both have, without those of padding.

    `live` [batch, sequence] is 1 at tokens, 0 at padding; None: all are live. Classes whose logits
    in the source are within `tie` of the largest, scaled as a tolerance is, are as good as it:
    which of them comes first is a matter of rounding.
    """
    names = [name for name in source if name in candidate]
    gaps = {name: max_difference(source[name], candidate[name], live) for name in names}
    worst = max(gaps, key=lambda name: gaps[name])
    rows = [
        (list_rows(source[name], live), list_rows(candidate[name], live))
        for name in names
        if "logits" in name and source[name].shape == candidate[name].shape
    ]
    kls = [_divergence(*pair) for pair in rows]
    num_rows = sum(len(left) for left, _ in rows)
    largest = max(_largest(source[name], live) for name in names)
    same = sum(_count_same(left, right, tie * max(1.0, largest)) for left, right in rows)
    return Difference(
        max_abs=gaps[worst],
        largest=largest,
        kl=float(np.concatenate(kls).mean()) if kls else None,
        agreement=same / num_rows if num_rows else None,
        num_rows=num_rows,
        output=worst,
    )


def max_difference(source: Array, candidate: Array, live: Array | None) -> float:
    """Return the largest difference at live positions; equal infinities do not differ."""
    if source.shape != candidate.shape:
        return math.inf
    left, right = _keep_live(source, live), _keep_live(candidate, live)
    if np.isnan(left).any() or np.isnan(right).any():
        return math.inf
    with np.errstate(invalid="ignore"):
        gap = np.where(left == right, 0.0, np.abs(left - right))
    return float(gap.max(initial=0.0))


def list_rows(logits: Array, live: Array | None) -> Array:
    """Return the distributions in logits, [R, C].

    Logits that have one number a token (where an answer starts) are one distribution a row of the
    batch, over its live tokens.
    """
    logits = logits.astype(np.float64)
    if live is not None and logits.shape == live.shape:
        return np.where(live.astype(bool), logits, -1e30)
    return _keep_live(logits, live).reshape(-1, logits.shape[-1])


def _keep_live(values: Array, live: Array | None) -> Array:
    """Return the values at live tokens; all where there is not one for each token."""
    values = values.astype(np.float64)
    per_token = live is not None and values.shape[:2] == live.shape
    return values[live.astype(bool)] if per_token and live is not None else values


def _largest(values: Array, live: Array | None) -> float:
    kept = np.abs(_keep_live(values, live))
    return float(kept[np.isfinite(kept)].max(initial=0.0))


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
