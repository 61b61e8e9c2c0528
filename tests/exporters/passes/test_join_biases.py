import pytest

from exporters.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from exporters.passes.join_biases import JoinBiases
from tests.exporters.passes.graphs import ATTENTION, assert_same, parse, reasons, run

SIZES = {"batch": 2, "sequence": 5}
_SUM = "scores = Add(scaled, mask)"
POSITIONED = ATTENTION.replace(
    "float[batch, 1, sequence, sequence] mask)",
    "float[batch, 1, 1, sequence] mask, float[1, 2, sequence, sequence] positions)",
)


@pytest.mark.parametrize(
    "sums",
    [
        "first = Add(scaled, positions) scores = Add(first, mask)",
        "first = Add(positions, scaled) scores = Add(mask, first)",
    ],
)
def test_positions_and_mask_become_one_sum_which_fuses(sums: str) -> None:
    before, model = run(parse(POSITIONED, (_SUM, sums)), **SIZES), parse(POSITIONED, (_SUM, sums))
    assert FuseMultiHeadAttention()(model).modified is False
    JoinBiases()(model)
    assert_same(before, run(model, **SIZES))
    (total,) = [n for n in model.graph if {v.name for v in n.inputs} == {"positions", "mask"}]
    assert [str(dim) for dim in total.outputs[0].shape] == ["batch", "2", "sequence", "sequence"]
    assert FuseMultiHeadAttention()(model).modified
    assert_same(before, run(model, **SIZES))


def test_layers_share_a_sum() -> None:
    second = "again = Add(scaled, positions) more = Add(again, mask) other = Softmax(more)"
    model = parse(
        POSITIONED,
        (_SUM, f"first = Add(scaled, positions) scores = Add(first, mask) {second}"),
        ("o = MatMul(weights, v)", "o1 = MatMul(weights, v) o2 = MatMul(other, v) o = Add(o1, o2)"),
    )
    joined = JoinBiases()
    joined(model)
    assert joined.outcome.num_changed == 2
    assert sum("positions" in [v.name for v in n.inputs] for n in model.graph) == 1


def test_one_sum_is_left_alone() -> None:
    assert reasons(JoinBiases(), parse(ATTENTION)) == []


@pytest.mark.parametrize(
    ("sums", "reason"),
    [
        (
            "first = Add(scaled, positions) kept = Softplus(first) masked = Add(first, mask) "
            "scores = Add(masked, mask) unused = Add(kept, kept)",
            "",
        ),
        (
            "first = Add(scaled, positions) scores = Add(first, mask) kept = Softplus(first)",
            "the scores without their mask are used elsewhere",
        ),
        (
            "first = Add(scaled, product) scores = Add(first, mask)",
            "both sides of a sum before its softmax are products",
        ),
    ],
)
def test_what_is_no_sum_of_biases_is_refused(sums: str, reason: str) -> None:
    assert reasons(JoinBiases(), parse(POSITIONED, (_SUM, sums))) == ([reason] if reason else [])
