from itertools import product

import numpy as np
import pytest

from profiles.measuring.statistics import _rank_z, find_drift


def make_noise(seed: int, num_samples: int = 64, spread: float = 0.03) -> np.ndarray:
    return 20 * np.exp(spread * np.random.default_rng(seed).normal(size=num_samples))


def test_noise_alone_is_steady() -> None:
    moving = [find_drift(make_noise(seed)) for seed in range(200)]
    # A rank test at 1 %, of which most alarms are under 2.5 %.
    assert sum(change is not None for change in moving) <= 6


def test_drift_is_found_with_its_size_and_sign() -> None:
    rising = make_noise(0) * np.linspace(1, 1.3, 64)
    change = find_drift(rising)
    assert change == pytest.approx(1.25 / 1.05 - 1, abs=0.04)
    falling = find_drift(rising[::-1])
    assert falling is not None and falling < -0.1


def test_a_step_is_found() -> None:
    samples = make_noise(1)
    samples[40:] *= 1.15
    assert find_drift(samples) == pytest.approx(0.15, abs=0.03)


def test_a_real_change_that_does_not_matter_is_no_drift() -> None:
    assert find_drift(make_noise(0, spread=0.001) * np.linspace(1, 1.02, 64)) is None


def test_a_large_change_that_is_not_real_is_no_drift() -> None:
    samples = np.tile([10.0, 20.0], 12)
    samples[-3] = 15.0
    assert find_drift(samples) is None


def test_too_few_samples_show_nothing() -> None:
    assert find_drift(np.linspace(1, 2, 17)) is None
    assert find_drift(np.linspace(1, 2, 18)) is not None


def test_rank_statistic_counts_pairs() -> None:
    first, last = np.array([1.0, 3.0, 3.0]), np.array([2.0, 3.0, 5.0, 4.0])
    wins = sum((b > a) + 0.5 * (b == a) for a, b in product(first, last))
    deviation = np.sqrt(3 * 4 * (3 + 4 + 1) / 12)
    assert _rank_z(first, last) == pytest.approx((wins - 6) / deviation)
