"""Oracles: numpy's quantiles, the binomial distribution, intervals that must cover the truth."""

from math import comb

import numpy as np
import pytest

from profiles.comparing.profile_result import Timing
from profiles.measuring.statistics import (
    MIN_BLOCKS,
    estimate_speedup,
    find_median_interval,
    find_sample_floor,
    find_variation,
    take_percentile,
)

TRUE_RATIO = 1.8


def draw_blocks(
    seed: int, num_blocks: int, *, common: float = 0.0, own: float = 0.02
) -> tuple[np.ndarray, np.ndarray]:
    """Draw paired blocks with a true ratio of medians; `common` slows both of a block alike."""
    draw = np.random.default_rng(seed)
    shared = np.exp(common * draw.normal(size=(num_blocks, 1)))
    dense, pruned = np.exp(own * draw.normal(size=(2, num_blocks, 2)))
    return 9.0 * TRUE_RATIO * dense * shared, 9.0 * pruned * shared


@pytest.mark.parametrize(("percentile", "floor"), [(90, 64), (99, 662)])
def test_floor_is_mlperfs(percentile: float, floor: int) -> None:
    assert find_sample_floor(percentile) == floor


@pytest.mark.parametrize("percentile", [80, 90, 95])
def test_floor_is_the_first_count_that_the_binomial_allows(percentile: int) -> None:
    def chance_of_at_most_one_slower(count: int) -> float:
        p = percentile / 100
        return sum(comb(count, k) * (1 - p) ** k * p ** (count - k) for k in (0, 1))

    floor = find_sample_floor(percentile)
    assert chance_of_at_most_one_slower(floor) <= 0.01 < chance_of_at_most_one_slower(floor - 1)


def test_percentile_is_numpys_from_the_floor_on() -> None:
    samples = np.random.default_rng(0).lognormal(size=64)
    assert take_percentile(samples, 90) == (pytest.approx(np.quantile(samples, 0.9)), None)


def test_percentile_is_withheld_below_the_floor_and_says_why() -> None:
    assert take_percentile(np.ones(63), 90) == (None, "63 samples; p90 needs 64")


def test_variation_is_deviation_over_mean() -> None:
    samples = np.array([1.0, 2.0, 4.0])
    assert find_variation(samples) == pytest.approx(np.sqrt(7 / 3) / (7 / 3))
    assert find_variation(np.array([3.0])) == 0.0


def test_timing_counts_rows_at_the_median() -> None:
    timing = Timing.of(np.array([[30.0, 10.0], [20.0, 1000.0]]).ravel(), batch=8)
    assert timing.median_ms == 25.0
    assert timing.throughput_per_s == pytest.approx(8 / 0.025)
    assert timing.samples_ms == (30.0, 10.0, 20.0, 1000.0)
    assert timing.p90_ms is None and timing.p90_note == "4 samples; p90 needs 64"


def test_ratio_is_of_the_medians_dense_over_pruned() -> None:
    dense, pruned = draw_blocks(0, 32)
    speedup = estimate_speedup(dense, pruned, seed=0)
    assert speedup.ratio == pytest.approx(np.median(dense) / np.median(pruned))
    assert speedup.low < speedup.ratio < speedup.high
    assert speedup.confidence == 0.95 and speedup.note is None


@pytest.mark.parametrize("common", [0.0, 0.2], ids=["noise of its own", "noise shared by blocks"])
def test_interval_covers_the_true_ratio_about_as_often_as_it_says(common: float) -> None:
    num_trials = 150
    speedups = [
        estimate_speedup(*draw_blocks(seed, 32, common=common), seed=seed)
        for seed in range(num_trials)
    ]
    covered = sum(s.low <= TRUE_RATIO <= s.high for s in speedups) / num_trials
    # Binomial noise of 150 trials at 0.95 is 0.018; a shared noise leaves it conservative.
    assert 0.88 <= covered <= (0.995 if not common else 1.0)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.0, "faster"), (1 / TRUE_RATIO**2, "slower"), (1 / TRUE_RATIO, "no significant difference")],
    ids=["faster", "slower", "equal"],
)
def test_the_verdict_needs_the_whole_interval(factor: float, verdict: str) -> None:
    dense, pruned = draw_blocks(3, 64, own=0.1)
    assert estimate_speedup(dense * factor, pruned, seed=0).verdict == verdict


def test_equal_models_are_rarely_told_apart() -> None:
    """At 95 % about one in twenty comparisons of equal models may find a difference."""
    verdicts = []
    for seed in range(100):
        dense, pruned = draw_blocks(seed, 32)
        verdicts.append(estimate_speedup(dense / TRUE_RATIO, pruned, seed=seed).verdict)
    assert verdicts.count("no significant difference") >= 88


def test_pairs_are_resampled_together() -> None:
    """What slows whole blocks cancels in the ratio; resampling the two apart would not see that."""
    dense, pruned = draw_blocks(0, 64, common=0.3, own=0.001)
    paired = estimate_speedup(dense, pruned, seed=0)
    shuffled = np.random.default_rng(1).permutation(pruned)
    apart = estimate_speedup(dense, shuffled, seed=0)
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


def test_interval_is_wider_when_slowness_lasts() -> None:
    """Neighbours alike are less evidence than as many independent blocks."""

    def width(dense: np.ndarray) -> float:
        speedup = estimate_speedup(dense, np.ones((192, 2)), seed=0)
        return speedup.high - speedup.low

    gains = []
    for seed in range(5):
        draw = np.random.default_rng(seed)
        slow = np.repeat(np.exp(0.1 * draw.normal(size=48)), 4)[:, None]
        lasting = slow * np.exp(0.01 * draw.normal(size=(192, 2)))
        gains.append(width(lasting) / width(draw.permutation(lasting)))
    assert np.mean(gains) > 1.3


def test_same_seed_gives_the_same_interval() -> None:
    blocks = draw_blocks(0, 32)
    assert estimate_speedup(*blocks, seed=4) == estimate_speedup(*blocks, seed=4)
    assert estimate_speedup(*blocks, seed=4) != estimate_speedup(*blocks, seed=5)


def test_few_blocks_give_no_interval_and_say_so() -> None:
    dense, pruned = draw_blocks(0, MIN_BLOCKS - 1)
    speedup = estimate_speedup(dense, pruned, seed=0)
    assert (speedup.low, speedup.high, speedup.verdict) == (None, None, "undecided")
    assert speedup.ratio == pytest.approx(np.median(dense) / np.median(pruned))
    assert speedup.note is not None and "7 blocks of samples are too few" in speedup.note


def test_the_medians_interval_is_made_of_order_statistics() -> None:
    # The table of the sign test: of 20 samples the 6th and the 15th, of 100 the 40th and 61st.
    for size, low, high in ((6, 1, 6), (20, 6, 15), (100, 40, 61)):
        samples = np.random.default_rng(0).permutation(np.arange(1.0, size + 1))
        assert find_median_interval(samples) == (low, high)
    assert find_median_interval(np.arange(5.0)) == (None, None)


def test_the_medians_interval_holds_it_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        low, high = find_median_interval(draw.exponential(size=64))
        inside += low <= np.log(2) <= high
    assert 0.92 < inside / 400 < 0.99
