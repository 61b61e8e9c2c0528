import json
from pathlib import Path
from typing import Any

import pytest

from profiles.comparing.comparison import compare_latency
from profiles.comparing.profile_config import ProfileConfig
from profiles.measuring.environment import capture_environment
from profiles.measuring.environment_schema import ENVIRONMENT_SCHEMA, check_environment
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import FakeClock, FakeRunner, noisy


def test_what_is_captured_here_fits() -> None:
    found = capture_environment(2)
    check_environment(json.loads(json.dumps(found)))
    assert set(found) <= set(ENVIRONMENT_SCHEMA["properties"])


def test_what_cannot_be_read_fits_too(tmp_path: Path) -> None:
    check_environment(capture_environment(1, tmp_path))  # no proc, no sys


def test_the_environment_of_a_profile_fits_and_says_whether_it_was_throttled() -> None:
    clock = FakeClock()
    runners = (FakeRunner(clock, noisy(0.01)) for _ in range(2))
    config = ProfileConfig(batch_sizes=(1,), length=8, min_samples=4, min_seconds=0.0)
    environment = compare_latency(*runners, config, clock=clock).to_json()["environment"]
    check_environment(environment)
    assert environment["throttling"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_threads": 0}, "num_threads should be 1 or more, got 0"),
        ({"num_threads": True}, "num_threads should be integer, got True"),
        ({"cpu": None}, "environment.cpu should be string, got None"),
        ({"gpus": [{"name": "T4"}]}, r"gpus\[0\] lacks 'driver'"),
        ({"load_average": [0.1, -1]}, r"load_average\[1\] should be 0 or more"),
        ({"packages": {"onnx": 1}}, "packages.onnx should be string or null, got 1"),
        ({"weather": "hot"}, "environment has an unknown 'weather'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        check_environment({**capture_environment(1), **changes})


def test_what_is_missing_is_named() -> None:
    data = capture_environment(1)
    del data["captured_at"]
    with pytest.raises(NirvanaError, match="environment lacks 'captured_at'"):
        check_environment(data)
