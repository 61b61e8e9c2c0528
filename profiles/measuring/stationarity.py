"""Says whether a latency was still moving while it was measured."""

import math

import numpy as np

from profiles.measuring.statistics import Samples

# The normal approximation of the rank test cannot tell anything from shorter thirds.
MIN_SAMPLES_FOR_DRIFT = 18
# trtexec warns at the same variation.
MATERIAL_CHANGE = 0.025
_Z_AT_1_PERCENT = 2.576


def find_drift(samples: Samples) -> float | None:
    """Return the change from the first third's median to the last third's, or None if steady.

    `samples` are in the order of time. A change counts when it is both real (Mann-Whitney rank
    test at 1 %) and more than 2.5 %: a long run makes real what does not matter, noise makes large
    what is not real. Fewer than `MIN_SAMPLES_FOR_DRIFT` samples never show a drift.
    """
    third = samples.size // 3
    if samples.size < MIN_SAMPLES_FOR_DRIFT:
        return None
    first, last = samples[:third], samples[-third:]
    change = float(np.median(last) / np.median(first) - 1)
    real = abs(_rank_z(first, last)) > _Z_AT_1_PERCENT
    return change if real and abs(change) > MATERIAL_CHANGE else None


def _rank_z(first: Samples, last: Samples) -> float:
    """Return the z score of the Mann-Whitney U statistic (normal approximation, ties halved)."""
    ordered = np.sort(first)
    below = np.searchsorted(ordered, last, side="left")
    not_above = np.searchsorted(ordered, last, side="right")
    u = (below + not_above).sum() / 2
    num_pairs = first.size * last.size
    deviation = math.sqrt(num_pairs * (first.size + last.size + 1) / 12)
    return float((u - num_pairs / 2) / deviation)
