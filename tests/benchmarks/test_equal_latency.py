"""Each row is held against its bars: as long as the other, and no more lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from equal_latency import write_result


def make_row(ratio: float, by_latency: float, by_parameters: float) -> dict[str, Any]:
    return {
        "case": "decoder 1x128+0",
        "seed": 0,
        "asked_speedup": 2.0,
        "parameters_over_latency_ms": ratio,
        "loss_rise": {"latency": by_latency, "parameters": by_parameters},
    }


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (make_row(1.005, 0.1, 0.2), [True, True]),
        (make_row(0.97, 0.1, 0.2), [False, True]),
        (make_row(1.0, 0.3, 0.2), [True, False]),
    ],
)
def test_a_row_has_two_bars(row: dict[str, Any], met: list[bool], tmp_path: Path) -> None:
    write_result([row], tmp_path / "out.json")
    bars = json.loads((tmp_path / "out.json").read_text())["bars"]
    assert [bar["met"] for bar in bars] == met
    assert bars[1]["name"] == "decoder 1x128+0 at 2x, draw 0: rise of the loss, by milliseconds"
    assert bars[1]["target"] == 0.2
