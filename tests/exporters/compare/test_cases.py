import numpy as np
import pytest

from exporters.compare.artefact import Artefact, TokenFacts
from exporters.compare.cases import COMPARED_SHAPES, Case, list_cases, make_tokens
from exporters.compare.compare_config import CompareConfig
from exporters.trace.trace_part import TRACED_SIZES
from pruning.errors import NirvanaError


def artefact(corners: dict | None = None, **facts: int) -> Artefact:
    return Artefact(
        name="it",
        precision="fp32",
        graphs={},
        facts=TokenFacts(**{"num_tokens": 50, **facts}),
        corners=corners or {},
    )


def test_shapes_are_other_than_traced_and_padded_on_both_sides() -> None:
    cases = list_cases([artefact()], CompareConfig())
    assert {(c.batch, c.length) for c in cases} == set(COMPARED_SHAPES)
    traced = (TRACED_SIZES["batch"], TRACED_SIZES["sequence"])
    assert traced not in COMPARED_SHAPES
    for shape, paddings in COMPARED_SHAPES.items():
        assert tuple(c.padding for c in cases if (c.batch, c.length) == shape) == paddings
    assert {c.padding for c in cases if c.length > 50} == {"left", "right"}
    assert {c.num_steps for c in cases} == {3}


def test_no_case_and_none_of_its_steps_is_longer_than_the_shorter_model() -> None:
    sides = [artefact(max_length=40), artefact(max_length=300)]
    assert max(c.length + c.num_steps for c in list_cases(sides, CompareConfig())) == 40
    shorter = list_cases(sides, CompareConfig(max_length=10, num_steps=0))
    assert max(c.length for c in shorter) == 10
    assert len(set(shorter)) == len(shorter)


def test_corners_of_a_profile_are_the_cases() -> None:
    corners = {"min": (1, 16), "opt": (4, 32), "max": (8, 48)}
    cases = list_cases([artefact(), artefact(corners)], CompareConfig())
    assert {(c.corner, c.batch, c.length) for c in cases} == {
        (name, *shape) for name, shape in corners.items()
    }
    assert "(opt of the profile)" in next(c for c in cases if c.corner == "opt").describe()


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_batches_have_padding_and_a_live_token_in_each_row(batch: int, side: str) -> None:
    case = Case(batch=batch, length=20, padding=side, num_steps=2)
    tokens = make_tokens(case, [artefact(pad_token=1)], CompareConfig())
    live = tokens.live if side == "right" else tokens.live[:, ::-1]
    assert (live == 0).any()
    assert (live[:, 0] == 1).all()
    assert (np.diff(live, axis=1) <= 0).all()
    assert (tokens.ids[tokens.live == 0] == 1).all()
    assert (tokens.ids[tokens.live == 1] != 1).all()
    assert tokens.steps.shape == (batch, 2)


def test_tokens_are_ones_that_both_know_and_no_padding() -> None:
    case = Case(batch=8, length=128, padding="none", num_steps=3)
    sides = [artefact(num_tokens=30, pad_token=20), artefact(num_tokens=90)]
    ids = make_tokens(case, sides, CompareConfig()).ids
    assert set(ids.ravel()) == set(range(30)) - {20}
    again = make_tokens(case, sides, CompareConfig())
    np.testing.assert_array_equal(again.ids, ids)
    other = make_tokens(case, sides, CompareConfig(seed=1))
    assert (other.ids != ids).any()


def test_too_small_a_vocabulary_is_refused() -> None:
    case = Case(batch=1, length=2, padding="none", num_steps=0)
    with pytest.raises(NirvanaError, match=r"vocabulary has 1 tokens, and none of them is left"):
        make_tokens(case, [artefact(num_tokens=1, pad_token=0)], CompareConfig())
