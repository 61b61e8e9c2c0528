import json
import subprocess
import sys
from typing import Any

import pytest

from profiles.measuring.measure_config import ProfileConfig
from pruning.errors import NirvanaError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_sizes": ()}, "^batch_sizes must name at least one batch size, got none"),
        ({"batch_sizes": (1, 0)}, "^batch_sizes must be 1 or more .* got 1, 0"),
        ({"batch_sizes": (8, 8)}, "^batch_sizes must .* differ from each other, got 8, 8"),
        ({"length": 0}, "^length must be 1 or more, got 0"),
        ({"min_samples": 0}, "^min_samples must be 1 or more, got 0"),
        ({"vocab_size": 0}, "^vocab_size must be 1 or more, got 0"),
        ({"warmup_seconds": -1.0}, "^warmup_seconds must be 0 or more, got -1"),
        ({"min_seconds": float("nan")}, "^min_seconds must be a finite number .*, got nan"),
        ({"seed": -1}, "^seed must be a finite number from 0 to 4294967295, got -1"),
        ({"num_threads": 0}, "^num_threads must be 1 or more, got 0"),
        (
            {"max_seconds": 4.0},
            r"^max_seconds must be above warmup_seconds \+ min_seconds = 4, got 4",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        ProfileConfig(**settings)


def test_defaults_are_those_of_the_report() -> None:
    config = ProfileConfig()
    assert (config.batch_sizes, config.length, config.min_samples) == ((1, 8), 128, 64)


def test_importing_the_config_loads_nothing_heavy() -> None:
    code = (
        "import json, sys, profiles.measuring.measure_config; heavy = 'numpy', 'onnx', 'rich'; "
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(found.stdout) == []
