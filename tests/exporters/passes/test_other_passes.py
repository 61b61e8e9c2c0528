import numpy as np
import onnx_ir as ir
import pytest

from exporters.passes.clean_graph import CleanGraph, FoldWeightTransposes
from exporters.passes.fuse_bias_gelu import FuseBiasGelu
from exporters.passes.fuse_rms_normalization import FuseSkipRmsNormalization
from exporters.passes.fuse_rotary_embedding import FuseRotaryEmbedding
from exporters.passes.graph_pass import NoMatchError
from exporters.passes.mask_probe import read_mask_kind
from exporters.passes.residual_norms import FuseSkipLayerNormalization, KeepNormsApart
from tests.exporters.passes.graphs import assert_same, parse, reasons, run

SIZES = {"batch": 2, "sequence": 3}
LITTER = """
g (float[batch, 4] x) => (float[batch, 4] y)
<float one = {1.0}>
{ two = Add(one, one) same = Identity(x) z = Mul(same, two) again = Mul(same, two)
  sum = Add(z, again) unused = Relu(z) y = Identity(sum) }
"""
GELU = """
g (float[batch, 4] x) => (float[batch, 4] y)
<float[4] bias = {0.1, 0.2, 0.3, 0.4},
 float root = {1.4142135}, float one = {1.0}, float half = {0.5}>
{ b = Add(x, bias) d = Div(b, root) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(b, h) }
"""
NORM = """
g (float[batch, sequence, 4] x, float[batch, sequence, 4] r) => (float[batch, sequence, 4] y)
<float[4] weight = {1.0, 2.0, 3.0, 4.0}, float[4] bias = {0.1, 0.2, 0.3, 0.4}>
{ sum = Add(x, r) y = LayerNormalization<axis = -1, epsilon = 0.01>(sum, weight, bias) }
"""
RMS = """
g (float[batch, sequence, 4] x, float[batch, sequence, 4] r)
  => (float[batch, sequence, 4] y, float[batch, sequence, 4] sum)
<float[4] weight = {1.0, 2.0, 3.0, 4.0}, float two = {2.0}, float small = {0.01},
 int64[1] last = {-1}>
{ sum = Add(x, r) p = Pow(sum, two) m = ReduceMean(p, last) e = Add(m, small) s = Sqrt(e)
  i = Reciprocal(s) n = Mul(sum, i) y = Mul(weight, n) }
"""
ROTARY = """
g (float[batch, sequence, 16] x, float[batch, sequence, 4] f) => (float[batch, 2, sequence, 8] y)
<int64[4] apart = {0, 0, 2, 8}, int64[1] zero = {0}, int64[1] four = {4}, int64[1] end = {99},
 int64[1] three = {3}, int64[1] one = {1}, float scale = {1.5}>
{ x4 = Reshape(x, apart) t = Transpose<perm = [0, 2, 1, 3]>(x4)
  angles = Concat<axis = -1>(f, f) c3 = Cos(angles) s3 = Sin(angles)
  cs = Mul(c3, scale) ss = Mul(s3, scale) c = Unsqueeze(cs, one) s = Unsqueeze(ss, one)
  straight = Mul(t, c) low = Slice(t, zero, four, three, one) high = Slice(t, four, end, three, one)
  n = Neg(high) turned = Concat<axis = -1>(n, low) ts = Mul(turned, s) y = Add(straight, ts) }
"""
TIED = """
g (int64[batch, sequence] ids) => (float[batch, sequence, 3] y)
<float[3, 2] weight = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}>
{ x = Gather(weight, ids) w = Transpose<perm = [1, 0]>(weight) y = MatMul(x, w) }
"""


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_litter_is_folded_and_removed() -> None:
    model, before = parse(LITTER), run(parse(LITTER), batch=2)
    CleanGraph()(model)
    assert ops(model) == ["Mul", "Add"]
    assert_same(before, run(model, batch=2))


def test_a_graph_out_of_order_is_found() -> None:
    model = parse(LITTER)
    first = model.graph[0]
    model.graph.remove(first)
    model.graph.append(first)
    with pytest.raises(ir.passes.PostconditionError, match="is used before it is made"):
        CleanGraph().ensures(model)


@pytest.mark.parametrize(
    ("work", "text", "expected"),
    [
        (FuseBiasGelu, GELU, ["BiasGelu"]),
        (FuseSkipLayerNormalization, NORM, ["SkipLayerNormalization"]),
        (KeepNormsApart, NORM, ["Sum", "LayerNormalization"]),
        (FuseSkipRmsNormalization, RMS, ["SkipSimplifiedLayerNormalization"]),
        (FoldWeightTransposes, TIED, ["Gather", "MatMul"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_fits_is_rewritten_and_the_same(work, text: str, expected: list[str]) -> None:
    model, before = parse(text), run(parse(text), **SIZES)
    work()(model)
    CleanGraph()(model)
    assert ops(model) == expected
    assert_same(before, run(model, **SIZES))


def test_a_rotation_is_fused_with_its_scaled_angles() -> None:
    model, before = parse(ROTARY), run(parse(ROTARY), **SIZES)
    FuseRotaryEmbedding()(model)
    CleanGraph()(model)
    assert ops(model).count("RotaryEmbedding") == 1
    assert "Neg" not in ops(model)
    assert_same(before, run(model, **SIZES))


@pytest.mark.parametrize(
    ("work", "text", "old", "new", "reason"),
    [
        (FuseBiasGelu, GELU, "Add(x, bias)", "Relu(x)", "no bias is added before it"),
        (FuseBiasGelu, GELU, "Add(x, bias)", "Add(x, x)", "is no constant vector"),
        (FuseBiasGelu, GELU, "{1.4142135}", "{1.5}", "is not divided by sqrt 2"),
        (FuseBiasGelu, GELU, "one = {1.0}", "one = {2.0}", "1 is not added to the erf"),
        (FuseBiasGelu, GELU, "half = {0.5}", "half = {0.25}", "multiplied by 0.25"),
        (FuseBiasGelu, GELU, "Mul(b, h)", "Mul(x, h)", "something other than its argument"),
        (FuseSkipLayerNormalization, NORM, "Add(x, r)", "Mul(x, r)", "no residual sum comes"),
        (KeepNormsApart, NORM, "Add(x, r)", "Add(x, bias)", "expected twice the same"),
        (FuseSkipRmsNormalization, RMS, "Add(x, r)", "Mul(x, r)", "no residual sum comes"),
        (FuseRotaryEmbedding, ROTARY, "Sin(angles)", "Cos(angles)", "comes from Cos, expected Sin"),
        (FuseRotaryEmbedding, ROTARY, "Concat<axis = -1>(f, f)", "Concat<axis = -1>(f, g)"
         , "the angles of the two halves differ"),
        (FoldWeightTransposes, TIED, "MatMul(x, w)", "MatMul(x, u)", "goes to Relu"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(work, text, old, new, reason) -> None:
    text = text.replace("{ x4 =", "{ g = Neg(f) x4 =") if "(f, g)" in new else text
    text = text.replace("y = MatMul", "u = Relu(w) y = MatMul") if "u)" in new else text
    (said,) = reasons(work(), parse(text, (old, new)))
    assert reason in said


def test_other_norms_and_approximations_are_refused() -> None:
    over_two = parse(NORM, ("axis = -1", "axis = 1"), ("float[4] weight = {1.0, 2.0, 3.0, 4.0}",
                     "float[1, 4] weight = {1.0, 2.0, 3.0, 4.0}"))  # fmt: skip
    assert reasons(FuseSkipLayerNormalization(), over_two) == ["it is not over the last dim alone"]
    gelu = 'g (float[4] x) => (float[4] y) { y = Gelu<approximate = "tanh">(x) }'
    assert reasons(FuseBiasGelu(), parse(gelu, opset=20)) == ["it is the approximation tanh"]


MASK = """
g (int64[batch, sequence] input_ids, int64[batch, total_sequence] attention_mask,
   float[batch, 1, past_sequence, 8] past) => (float[batch, 1, sequence, total_sequence] y)
<int64 zero = {0}, int64 one = {1}, float seen = {0.0}, float hidden = {-1e9}, int64[1] last = {1},
 int64[2] front = {0, 1}, int64[2] inner = {1, 2}, int64 window = {900}>
{ p1 = Shape<start = 2, end = 3>(past) n1 = Shape<start = 1, end = 2>(input_ids)
  t1 = Add(p1, n1) p = Squeeze(p1) t = Squeeze(t1)
  rows = Range(p, t, one) row = Unsqueeze(rows, last)
  columns = Range(zero, t, one) before = LessOrEqual(columns, row)
  start = Sub(row, window) after = Greater(columns, start)
  both = And(before, after) plane = Unsqueeze(CHOSEN, front)
  live = Cast<to = 9>(attention_mask) wide = Unsqueeze(live, inner) ok = And(plane, wide)
  y = Where(ok, seen, hidden) }
"""


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [
        ("before", "causal and padding"),
        ("both", "causal and more"),  # a window of 900 tokens, longer than all usual probes
        ("after", "other"),
    ],
)
def test_a_mask_is_told_by_what_it_hides(chosen: str, kind: str) -> None:
    model = parse(MASK, ("CHOSEN", chosen))
    assert read_mask_kind(model, model.graph.outputs[0], has_cache=True) == kind


def test_a_mask_that_depends_on_more_is_refused() -> None:
    model = parse(
        MASK, ("CHOSEN", "before"), ("total_sequence] attention_mask", "slots] attention_mask")
    )
    with pytest.raises(NoMatchError, match="a dim slots of unknown meaning"):
        read_mask_kind(model, model.graph.outputs[0], has_cache=True)


def test_a_folded_weight_is_the_transposed_one() -> None:
    model = parse(TIED)
    FoldWeightTransposes()(model)
    stored = model.graph.initializers["weight_transposed"].const_value
    assert stored is not None
    np.testing.assert_array_equal(stored.numpy(), [[1, 3, 5], [2, 4, 6]])
