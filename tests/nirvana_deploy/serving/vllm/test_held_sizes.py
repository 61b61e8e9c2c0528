"""Which numbers of heads hold a plan."""

from __future__ import annotations

import pytest

from nirvana_deploy.serving.vllm.held_sizes import hold_alike, hold_query_heads
from nirvana_deploy.serving.vllm.layer_sizes import LayerSize
from pruning.errors import NirvanaError


def size(heads: int, kv_heads: int, neurons: int = 10) -> LayerSize:
    return LayerSize(num_heads=heads, num_kv_heads=kv_heads, num_neurons=neurons)


def test_alike_is_as_large_as_the_most_groups_and_the_largest_group() -> None:
    layers = [size(6, 2, 30), size(4, 4, 7), size(0, 0, 0)]
    assert set(hold_alike(layers, lambda *_: True, 12, 16)) == {size(12, 4, 32)}


def test_a_config_that_takes_some_numbers_only_gets_the_next_one() -> None:
    layers = [size(5, 5)]
    assert hold_alike(layers, lambda heads, _: 32 % heads == 0, 8) == (size(8, 8),)
    with pytest.raises(NirvanaError, match=r"No number of heads up to 8 holds 5 KV heads of 1 "):
        hold_alike(layers, lambda *_: False, 8)


def test_query_heads_are_shared_out_by_layer() -> None:
    layers = [size(6, 3), size(2, 2), size(4, 1), size(0, 0)]
    held = hold_query_heads(layers, lambda *_: True, 12, 1, lambda *_: False)
    assert held == (size(6, 3), size(6, 2), size(6, 1), size(0, 0))


def test_groups_that_do_not_divide_are_named() -> None:
    layers = [size(5, 5), size(4, 2)]  # five heads on five: none has two; on one: too few
    with pytest.raises(NirvanaError, match="Layer 0 has 5 query heads on 5 KV heads, and no"):
        hold_query_heads(layers, lambda *_: True, 5, 1, lambda *_: False)
    held = hold_query_heads(layers, lambda *_: True, 6, 1, lambda *_: False)
    assert held == (size(6, 6), size(6, 2))
