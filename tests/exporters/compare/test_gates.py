from typing import get_args

import pytest

from exporters.compare.compare_config import CompareConfig, choose_gates
from exporters.export_config import GraphPrecision
from pruning.errors import NirvanaError


def test_the_coarser_format_sets_the_gates() -> None:
    assert choose_gates(("fp32", "fp16"), CompareConfig()).precision == "fp16"
    assert choose_gates(("int8", "fp16"), CompareConfig()).precision == "int8"
    assert choose_gates(("int8",), CompareConfig(precision="fp32")).tolerance == 1e-4


def test_gates_widen_with_the_format() -> None:
    gates = [choose_gates((name,), CompareConfig()) for name in get_args(GraphPrecision)]
    by_size = sorted(gates, key=lambda gate: gate.tolerance)
    assert [g.precision for g in by_size] == ["fp32", "fp16", "bf16", "int8", "int8-static"]
    assert [g.max_kl for g in by_size] == sorted(g.max_kl for g in gates)


def test_an_override_replaces_one_number_and_is_recorded() -> None:
    gates = choose_gates(("fp16",), CompareConfig(tolerance=1e-3))
    assert gates.to_json() == {
        "precision": "fp16",
        "tolerance": 1e-3,
        "max_kl": 1e-3,
        "min_agreement": 0.97,
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"precision": "fp8"}, "precision must be one of fp32, fp16, .* got 'fp8'"),
        ({"tolerance": 0}, "tolerance must be above 0, got 0"),
        ({"max_kl": -1}, "max_kl must be above 0, got -1"),
        ({"min_agreement": 2}, "min_agreement must be from 0 to 1, got 2"),
        ({"num_steps": -1}, "num_steps must be 0 or more, got -1"),
        ({"max_length": 0}, "max_length must be 1 or more, got 0"),
    ],
)
def test_impossible_settings_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        CompareConfig(**setting)
