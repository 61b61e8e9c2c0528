"""The figures made of samples: medians, percentiles with floors, intervals. Arrays in, no clock."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Samples = NDArray[np.float64]
# What a result of ours cannot be below, for those that are read again.
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]

# Resampling fewer blocks than this gives an interval that is far too narrow.
MIN_BLOCKS = 8
NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """Hold a ratio of medians, dense over pruned, with its confidence interval.

    Attributes:
        low: lower end of the interval; None, as `high`, where it is withheld.
        note: why the interval is withheld, or None.
    """

    ratio: NotNegative
    low: NotNegative | None
    high: NotNegative | None
    confidence: NotNegative
    note: str | None = None

    def withhold(self, reason: str) -> "Speedup":
        """Return the ratio without an interval, which would promise more than was measured."""
        return replace(self, low=None, high=None, note=reason)

    @property
    def verdict(self) -> str:
        """Say what the interval allows to be said: 1 within it is no significant difference."""
        if self.low is None or self.high is None:
            return "undecided"
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "no significant difference"


def find_sample_floor(percentile: float, confidence: float = 0.99) -> int:
    """Return the fewest samples on which a percentile may be quoted: 64 for 90, 662 for 99.

    MLPerf Inference rules, early stopping: the run is long enough when, were the quoted value not
    reached by `percentile` per cent of all requests, two or more slower ones would have been seen
    with probability `confidence`.
    """
    within = percentile / 100
    num_samples = 2
    while within ** (num_samples - 1) * (within + num_samples * (1 - within)) > 1 - confidence:
        num_samples += 1
    return num_samples


def take_percentile(samples: Samples, percentile: float) -> tuple[float | None, str | None]:
    """Return (value, None), or (None, why it is withheld) below the sample floor."""
    floor = find_sample_floor(percentile)
    if samples.size < floor:
        return None, f"{samples.size} samples; p{percentile:g} needs {floor}"
    return float(np.percentile(samples, percentile)), None


def find_median_interval(
    samples: Samples, confidence: float = 0.95
) -> tuple[float, float] | tuple[None, None]:
    """Return two order statistics between which the median is; (None, None) below 6 samples.

    Exact for independent samples of any distribution (the binomial; David and Nagaraja, Order
    Statistics, 7.1).
    """
    num_samples = samples.size
    allowed = (1 - confidence) / 2
    # How often, of 2**num_samples, at most `rank` samples fall below the median.
    total, tail, coefficient, rank = 2**num_samples, 0, 1, 0
    while (tail + coefficient) / total <= allowed:
        tail += coefficient
        coefficient = coefficient * (num_samples - rank) // (rank + 1)
        rank += 1
    if rank == 0:
        return None, None
    ordered = np.sort(samples, axis=None)
    return float(ordered[rank - 1]), float(ordered[num_samples - rank])


def find_variation(samples: Samples) -> float:
    """Return the coefficient of variation: standard deviation over mean; 0 for one sample."""
    return float(samples.std(ddof=1) / samples.mean()) if samples.size > 1 else 0.0


def estimate_speedup(
    dense_blocks: Samples, pruned_blocks: Samples, *, seed: int, confidence: float = 0.95
) -> Speedup:
    """Estimate median(dense) / median(pruned), with a percentile bootstrap interval.

    The arrays are [num_blocks, samples a block]; row i of both was measured side by side. Blocks
    are resampled as pairs, so that what slowed both at a time does not widen the interval, and in
    runs of neighbours (moving blocks, Kuensch 1989), because what slows one slows the next too.
    The interval is widened for the few runs there are: a bootstrap of k draws is narrow by
    sqrt((k - 1) / k).
    Below `MIN_BLOCKS` blocks there is no interval.
    """
    ratio = float(np.median(dense_blocks) / np.median(pruned_blocks))
    num_blocks = len(dense_blocks)
    if num_blocks < MIN_BLOCKS:
        return Speedup(ratio=ratio, low=None, high=None, confidence=confidence).withhold(
            f"{num_blocks} blocks of samples are too few for an interval; it takes {MIN_BLOCKS}"
        )
    run_length = math.ceil(num_blocks ** (1 / 3))
    picked = _resample_in_runs(num_blocks, run_length, np.random.default_rng(seed))
    dense_medians = np.median(dense_blocks[picked].reshape(NUM_RESAMPLES, -1), axis=1)
    pruned_medians = np.median(pruned_blocks[picked].reshape(NUM_RESAMPLES, -1), axis=1)
    tail = (1 - confidence) / 2
    bounds = np.quantile(dense_medians / pruned_medians, (tail, 1 - tail))
    num_runs = num_blocks / run_length
    low, high = ratio * (bounds / ratio) ** math.sqrt(num_runs / (num_runs - 1))
    return Speedup(ratio=ratio, low=float(low), high=float(high), confidence=confidence)


def _resample_in_runs(
    num_blocks: int, run_length: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Return [NUM_RESAMPLES, num_blocks] indices, in circular runs of neighbours."""
    num_runs = math.ceil(num_blocks / run_length)
    starts = draw.integers(0, num_blocks, (NUM_RESAMPLES, num_runs, 1))
    picked = (starts + np.arange(run_length)) % num_blocks
    return picked.reshape(NUM_RESAMPLES, -1)[:, :num_blocks]


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
