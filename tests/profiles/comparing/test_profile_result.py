"""A real profile is read as it was written; what is changed in it is named."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from profiles.comparing.comparison import compare_latency
from profiles.comparing.profile_result import ProfileResult, describe_schema
from profiles.measuring.measure_config import ProfileConfig
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import FakeClock, FakeRunner, noisy


@pytest.fixture(scope="module")
def result() -> ProfileResult:
    clock = FakeClock()
    runners = (FakeRunner(clock, noisy(0.01)) for _ in range(2))
    config = ProfileConfig(batch_sizes=(1,), length=8, min_samples=4, min_seconds=0.0)
    return compare_latency(*runners, config, clock=clock)


@pytest.fixture(scope="module")
def profile(result: ProfileResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(result.to_json()))
    return found


def test_a_profile_is_read_as_it_was_written(
    result: ProfileResult, profile: dict[str, Any]
) -> None:
    read = ProfileResult.from_json(profile)
    assert read == result
    assert read.to_json() == profile
    assert profile["environment"]["throttling"]


def test_a_profile_of_before_has_less(profile: dict[str, Any]) -> None:
    """Parts of a run, memory, generations and loads came later."""
    older = copy.deepcopy(profile)
    for name in ("memory", "generations", "loads", "partial"):
        del older[name]
    for side in ("dense", "pruned"):
        del older["cases"][0][side]["parts"], older["cases"][0][side]["energy"]
    assert ProfileResult.from_json(older).generations == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("method"), "method"),
        (lambda p: p["cases"][0].pop("speedup"), r"cases\[0\].*speedup|speedup.*cases\[0\]"),
        (lambda p: p["cases"][0]["dense"].update(median_ms=-1), "dense.median_ms"),
        (lambda p: p["cases"][0].update(stationary=1), r"cases\[0\]\.stationary"),
        (lambda p: p["cases"][0].update(batch=True), r"cases\[0\]\.batch"),
        (lambda p: p["cases"][0]["dense"].update(energy=3), "dense.energy"),
        (lambda p: p["environment"].update(num_threads=0), "environment.num_threads"),
        (lambda p: p["environment"].update(cpu=None), "environment.cpu"),
        (lambda p: p["environment"].update(gpus=[{"name": "T4"}]), r"environment\.gpus\[0\]"),
        (lambda p: p["environment"].update(load_average=[0.1, -1]), "load_average"),
        (lambda p: p["environment"].update(packages={"onnx": 1}), "environment.packages"),
        (lambda p: p["environment"].pop("captured_at"), "captured_at"),
    ],
)
def test_what_does_not_fit_is_named(
    profile: dict[str, Any], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    changed = copy.deepcopy(profile)
    change(changed)
    with pytest.raises(NirvanaError, match=message):
        ProfileResult.from_json(changed)


def test_the_schema_is_that_of_the_records(profile: dict[str, Any]) -> None:
    schema = describe_schema()
    case = schema["$defs"]["ProfileCase"]
    assert set(case["properties"]) == set(profile["cases"][0]) - {"verdict"}
    assert set(schema["$defs"]["Environment"]["properties"]) >= set(profile["environment"])
    assert schema["$defs"]["Timing"]["properties"]["median_ms"]["minimum"] == 0
