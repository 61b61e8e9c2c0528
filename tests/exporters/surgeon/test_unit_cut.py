"""Cuts follow values through reshapes: held against slicing arrays of their own indices."""

from __future__ import annotations

import numpy as np
import pytest

from exporters.surgeon.unit_cut import NotRegular, UnitCut, reshape_cuts


def cut(values, cuts):
    for axis, found in cuts.items():
        values = values.take(found.kept, axis=axis)
    return values


HEADS = UnitCut.keep([0, 2, 3], 4)
CHANNELS = UnitCut.of(np.repeat(HEADS.mask, 8))
THREE = UnitCut.of(np.concatenate([CHANNELS.mask] * 3))
# NeoX: each head's query, key and value side by side.
INTERLEAVED = UnitCut.of(np.repeat(HEADS.mask, 24))


@pytest.mark.parametrize(
    ("shape", "cuts", "new_shape"),
    [
        ((11, 13, 32), {2: CHANNELS}, (11, 13, 4, 8)),
        ((11, 13, 4, 8), {2: HEADS}, (11, 13, 32)),
        ((11, 4, 13, 8), {1: HEADS}, (44, 13, 8)),
        ((11, 13, 96), {2: THREE}, (11, 13, 3, 4, 8)),
        ((11, 13, 96), {2: INTERLEAVED}, (11, 13, 4, 24)),
        ((143, 32), {1: CHANNELS}, (11, 13, 32)),
        ((11, 4, 1, 13, 8), {1: HEADS}, (11, 4, 13, 8)),
        ((32,), {0: CHANNELS}, (1, 1, 32)),
    ],
)
def test_a_reshaped_cut_is_the_cut_of_the_reshaped(shape, cuts, new_shape):
    whole = np.arange(np.prod(shape)).reshape(shape)
    new_cuts = reshape_cuts(cuts, shape, new_shape)
    expected = cut(whole, cuts)
    came = cut(whole.reshape(new_shape), new_cuts)
    np.testing.assert_array_equal(came.ravel(), expected.ravel())


def test_what_is_no_block_is_refused():
    ragged = UnitCut.keep([0, 1, 9], 32)
    with pytest.raises(NotRegular):
        reshape_cuts({2: ragged}, (11, 13, 32), (11, 13, 4, 8))


def test_parts_that_lie_otherwise_are_refused():
    """Parts one after the other are not parts group by group: the graph tells which it has."""
    with pytest.raises(NotRegular):
        reshape_cuts({2: THREE}, (11, 13, 96), (11, 13, 4, 24))


def test_repeated_key_heads_agree_with_any_equally_many_queries_of_them():
    shape, new_shape = (11, 3, 4, 13, 8), (11, 12, 13, 8)
    groups = UnitCut.keep([0, 2], 3)
    repeated = reshape_cuts({1: groups, 2: UnitCut(None, 2, 4)}, shape, new_shape)[1]
    assert repeated.agrees(UnitCut.keep([0, 3, 9, 10], 12))
    assert not repeated.agrees(UnitCut.keep([0, 4, 9, 10], 12))
    assert not repeated.agrees(UnitCut.keep([0, 9, 10, 11], 12))
