"""Which samples carry an interval; where they do not, the ratio stands with the reason."""

import numpy as np
import pytest

from profiles.comparing.judgement import estimate_ratio
from profiles.measuring.statistics import Samples

NUM_BLOCKS = 64


def draw(scale: float, seed: int, spread: float = 0.05) -> Samples:
    return scale * np.random.default_rng(seed).lognormal(0, spread, (NUM_BLOCKS, 2))


def ramp(start: float, end: float) -> Samples:
    return np.linspace(start, end, NUM_BLOCKS)[:, None]


def test_steady_samples_on_a_quiet_machine_carry_an_interval() -> None:
    for other in (None, 0.0, 0.2):
        speedup = estimate_ratio(draw(2, 0), draw(1, 1), other, seed=0)
        assert speedup.low is not None and speedup.high is not None
        assert speedup.low < 2 < speedup.high and speedup.note is None


@pytest.mark.parametrize(
    ("dense", "pruned", "other", "reason"),
    [
        (draw(2, 0) * ramp(1, 1.5), draw(1, 1), 0.0, "the ratio moved by"),
        (draw(2, 0), draw(1, 1) * ramp(1.3, 1), 0.0, "the ratio moved by"),
        (draw(2, 0) * ramp(1.6, 1), draw(1, 1) * ramp(1.6, 1), 0.0, "dense moved by -"),
        (draw(2, 0), draw(1, 1), 0.82, "other programs took 82% of the CPUs"),
        (draw(2, 0)[:4], draw(1, 1)[:4], 0.0, "4 blocks of samples are too few"),
    ],
    ids=["dense drifts", "pruned drifts", "both drift", "busy", "few"],
)
def test_an_interval_is_withheld_with_its_reason(
    dense: Samples, pruned: Samples, other: float, reason: str
) -> None:
    speedup = estimate_ratio(dense, pruned, other, seed=0)
    assert (speedup.low, speedup.high, speedup.verdict) == (None, None, "undecided")
    assert speedup.note is not None and reason in speedup.note
    assert speedup.ratio == pytest.approx(np.median(dense) / np.median(pruned))
