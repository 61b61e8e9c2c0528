"""A real profile fits its schema; what is changed in it is named."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from profiles.comparing.comparison import compare_latency
from profiles.comparing.profile_config import ProfileConfig
from profiles.comparing.profile_schema import check_profile
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import FakeClock, FakeRunner, noisy


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    clock = FakeClock()
    runners = (FakeRunner(clock, noisy(0.01)) for _ in range(2))
    config = ProfileConfig(batch_sizes=(1,), length=8, min_samples=4, min_seconds=0.0)
    return compare_latency(*runners, config, clock=clock).to_json()


def test_a_profile_fits(profile: dict[str, Any]) -> None:
    check_profile(profile)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("method"), "profile lacks 'method'"),
        (lambda p: p["cases"][0].pop("speedup"), r"cases\[0\] lacks 'speedup'"),
        (lambda p: p["cases"][0]["dense"].update(median_ms=-1), "median_ms should be 0 or more"),
        (lambda p: p["cases"][0].update(stationary=1), "stationary should be boolean, got 1"),
        (lambda p: p["cases"][0].update(batch=True), "batch should be integer, got True"),
        (lambda p: p["cases"][0]["dense"].update(energy=3), "energy should be object or null"),
        (lambda p: p.update(weather="hot"), "profile has an unknown 'weather'"),
    ],
)
def test_what_does_not_fit_is_named(
    profile: dict[str, Any], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    changed = copy.deepcopy(profile)
    change(changed)
    with pytest.raises(NirvanaError, match=message):
        check_profile(changed)
