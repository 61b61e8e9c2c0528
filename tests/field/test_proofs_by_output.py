"""Proofs compare each output by its own scale: large values of one do not excuse another."""

import math

import pytest
import torch

from pruning.cutting.output_difference import max_difference
from pruning.cutting.proof_checks import _hold
from pruning.errors import NirvanaError
from pruning.oneshot.fidelity import prove_equal

EXPECTED = {"start_logits": torch.tensor([[1e4, 2.0]]), "end_logits": torch.tensor([[0.5, 0.1]])}


def move(name: str, by: float) -> dict[str, torch.Tensor]:
    """Return the expected outputs with one of them moved."""
    return {n: value + by if n == name else value for n, value in EXPECTED.items()}


def prove(came: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> dict:
    return prove_equal("loaded", "saved", came, EXPECTED, 1, dtype)


@pytest.mark.parametrize(("dtype", "by"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_a_small_output_is_not_excused_by_a_large_one(dtype: torch.dtype, by: float) -> None:
    with pytest.raises(NirvanaError, match=r"end_logits differs by .*, at most"):
        prove(move("end_logits", by), dtype)
    found = prove(move("start_logits", by), dtype)  # is rounding of values of 10,000
    assert found["output"] == "start_logits"
    assert found["max_abs_difference"] <= found["tolerance"]
    assert found["bitwise_equal"] is False


def test_an_output_of_small_values_has_a_small_tolerance() -> None:
    tiny = {"logits": torch.tensor([[0.03, 0.01]])}
    with pytest.raises(NirvanaError, match="logits differs by"):
        prove_equal("loaded", "saved", {"logits": tiny["logits"] + 5e-6}, tiny, 1, torch.float32)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_of_one_side_are_differences(value: float) -> None:
    with pytest.raises(NirvanaError, match="end_logits differs by inf"):
        prove(move("end_logits", value))
    passed, difference, note = _hold(move("end_logits", value), EXPECTED)
    assert (passed, difference) == (False, math.inf)
    assert "end_logits" in note


def test_masks_of_both_sides_are_equal() -> None:
    masked = torch.tensor([1.0, -math.inf])
    assert max_difference(masked, masked) == 0
    assert max_difference(masked, torch.tensor([1.0, math.inf])) == math.inf
    assert max_difference(masked, masked[:1]) == math.inf


def test_the_proof_of_a_plan_names_the_output() -> None:
    passed, difference, note = _hold(move("end_logits", 1e-3), EXPECTED)
    assert not passed
    assert difference == pytest.approx(1e-3, rel=1e-3)
    assert note.endswith("of end_logits")
    assert _hold(move("start_logits", 1e-3), EXPECTED)[0]
