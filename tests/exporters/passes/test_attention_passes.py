import re

import pytest

from exporters.passes.attention_site import AttentionSite, find_attentions
from exporters.passes.fuse_group_query_attention import FuseGroupQueryAttention
from exporters.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from exporters.passes.merge_projections import MergeProjections
from exporters.passes.scatter_cache import ScatterCache
from exporters.passes.write_attention_operator import AdditiveMasks, WriteAttentionOperator
from pruning.errors import NirvanaError
from tests.exporters.passes.graphs import (
    ATTENTION,
    assert_same,
    cached,
    give_shape,
    parse,
    reasons,
    run,
)

SIZES = {"batch": 2, "sequence": 5}
CACHED_SIZES = {"batch": 2, "sequence": 1, "past_sequence": 4, "total_sequence": 5}


def test_the_parts_of_an_attention_are_read() -> None:
    (site,) = find_attentions(parse(ATTENTION))
    assert isinstance(site, AttentionSite)
    assert (site.num_heads, site.num_kv_heads, site.head_dim, site.scale) == (2, 2, 4, 0.5)
    assert (site.bias.name, site.merged.name, site.key_is_split) == ("mask", "y", False)
    (site,) = find_attentions(cached())
    assert (site.num_heads, site.num_kv_heads, site.key.name) == (2, 1, "key")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Softmax<axis = -1>", "Softmax<axis = 1>", "its softmax is not over the keys"),
        ("MatMul(weights, v)", "MatMul(v, weights)", "the softmax is the right factor"),
        ("perm = [0, 2, 3, 1]", "perm = [2, 0, 3, 1]", "its key is transposed by"),
        ("(o)", "(v)", "the attention's output goes to no node, expected one Transpose"),
        ("[0, 2, 1, 3]>(o)", "[2, 0, 1, 3]>(o)", "its output is transposed by (2, 0, 1, 3)"),
        ("together = {0, 0, 8}", "together = {0, 0, 2, 4}", "expected a last dim of 8"),
        ("q = Transpose<perm = [0, 2, 1, 3]>", "q = Transpose<perm = [0, 2, 1, 3]>", ""),
    ],
)
def test_what_is_no_attention_is_refused(old: str, new: str, reason: str) -> None:
    declared = ("8] y)", "2, 4] y)") if "2, 4" in new else ("y)", "y)")
    model = parse(
        ATTENTION.replace("int64[3] together", "int64[4] together") if "2, 4" in new else ATTENTION,
        (old, new),
        declared,
    )
    if not reason:
        FuseMultiHeadAttention()(model)
        assert [node.op_type for node in model.graph] == ["MultiHeadAttention"]
        return
    (said,) = reasons(FuseMultiHeadAttention(), model)
    assert reason in said


def test_a_query_that_is_not_split_is_refused_by_the_fusion() -> None:
    model = parse(ATTENTION, ("q = Transpose<perm = [0, 2, 1, 3]>(q4)", "q = Softplus(v)"))
    give_shape(model, q=["batch", 2, "sequence", 4])
    assert reasons(FuseMultiHeadAttention(), model) == [
        "the heads of its query are not split off by Reshape and Transpose"
    ]


@pytest.mark.parametrize(
    "width", ["batch, 1, sequence, sequence", "batch, 1, 1, sequence", "1, 2, sequence, 1"]
)
def test_a_fused_attention_is_the_same_whatever_its_mask_is_broadcast_over(width: str) -> None:
    text = ATTENTION.replace("float[batch, 1, sequence, sequence] mask", f"float[{width}] mask")
    before, model = run(parse(text), **SIZES), parse(text)
    FuseMultiHeadAttention()(model)
    assert_same(before, run(model, **SIZES))


def test_shared_heads_and_softcaps_are_not_for_multi_head_attention() -> None:
    (said,) = reasons(FuseMultiHeadAttention(), cached())
    assert said.startswith("2 query heads share 1 key-value heads")
    capped = parse(
        ATTENTION,
        (
            "scores = Add(scaled, mask)",
            "c = Div(scaled, cap) t = Tanh(c) u = Mul(t, cap) scores = Add(u, mask)",
        ),
        ("float scale = {0.5}", "float scale = {0.5}, float cap = {30.0}"),
    )
    assert reasons(FuseMultiHeadAttention(), capped) == ["MultiHeadAttention has no softcap"]


def test_a_cache_goes_into_group_query_attention() -> None:
    model = cached()
    before = run(cached(), **CACHED_SIZES)
    FuseGroupQueryAttention()(model)
    assert_same(before, run(model, **CACHED_SIZES))
    ops = [node.op_type for node in model.graph]
    assert ops.count("GroupQueryAttention") == 1
    assert "Softmax" not in ops
    assert "LessOrEqual" in ops  # the graph's own mask, which lets padding through, is kept


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("LessOrEqual", "GreaterOrEqual", "its mask mask is not causal"),
        ("hidden = {-1e9}", "hidden = {-1.0}", "its mask mask is not causal"),
        (
            "Concat<axis = -2>(past_key, k)",
            "Concat<axis = -2>(k, past_key)",
            "its cache is no input of the graph",
        ),
        ("attention_mask", "padding", "the graph has no input attention_mask"),
        ("past_sequence, 8] past_key", "slots, 8] past_key", "a dim slots of unknown meaning"),
    ],
)
def test_what_is_no_causal_cache_is_refused(old: str, new: str, reason: str) -> None:
    (said,) = reasons(FuseGroupQueryAttention(), cached((old, new)))
    assert reason in said


def test_a_head_dim_without_kernel_is_refused() -> None:
    (said,) = reasons(FuseGroupQueryAttention(), cached(head_dim=4))
    assert said == "its head dim is 4, GroupQueryAttention takes multiples of 8"


def test_an_attention_without_mask_or_cache_is_not_for_group_query_attention() -> None:
    (said,) = reasons(FuseGroupQueryAttention(), cached(("Add(scaled, mask)", "Relu(scaled)")))
    assert "the scores comes from Relu" in said
    (said,) = reasons(FuseGroupQueryAttention(), parse(ATTENTION))
    assert said == "it has no cache, and its keys are no output of the graph"


def test_projections_that_are_not_rotated_are_left_apart() -> None:
    model = cached()
    FuseGroupQueryAttention()(model)
    assert reasons(MergeProjections(), model) == [
        "the query comes from no node, expected RotaryEmbedding"
    ]


BOOLEAN = """
g (float[batch, 2, sequence, 4] q, bool[batch, 1, sequence, sequence] seen)
  => (float[batch, 2, sequence, 4] y)
{ y = Attention(q, q, q, seen) }
"""


def test_boolean_masks_become_numbers() -> None:
    model = parse(BOOLEAN, opset=23)
    AdditiveMasks()(model)
    assert [node.op_type for node in model.graph] == ["Where", "Attention"]
    untyped = parse(
        BOOLEAN, ("Attention(q", "Attention(other"), ("{ y", "{ other = Relu(q) y"), opset=23
    )
    untyped.graph[0].outputs[0].type = None
    assert reasons(AdditiveMasks(), untyped) == ["the number type of its query is not known"]
    (said,) = reasons(FuseMultiHeadAttention(), parse(BOOLEAN, opset=23))
    assert said.startswith("the Attention operator has a boolean mask")


def test_a_cache_buffer_needs_a_cache_and_a_mask() -> None:
    assert reasons(ScatterCache(8), parse(BOOLEAN, opset=24)) == [
        "its keys and values are no graph input followed by new ones"
    ]
    model = cached(opset=24)
    WriteAttentionOperator()(model)
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    node.replace_input_with(3, None)
    assert reasons(ScatterCache(8), model) == [
        "it has no additive mask to hide the end of the buffer with"
    ]


def test_a_cache_buffer_needs_its_opset() -> None:
    model = cached(opset=23)
    WriteAttentionOperator()(model)
    with pytest.raises(Exception) as caught:
        ScatterCache(8)(model)
    assert isinstance(caught.value.__cause__, NirvanaError)
    assert re.search("needs opset 24 or newer, the graph has 23", str(caught.value.__cause__))
