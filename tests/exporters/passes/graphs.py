"""Small graphs as text, and what to do with them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from exporters.passes.graph_pass import GraphPass

HEADER = '<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'

# Two heads of four channels, as torch writes them.
ATTENTION = """
g (float[batch, sequence, 8] x, float[batch, 1, sequence, sequence] mask)
  => (float[batch, sequence, 8] y)
<int64[4] apart = {0, 0, 2, 4}, int64[3] together = {0, 0, 8}, float scale = {0.5}>
{
  q4 = Reshape(x, apart)
  q = Transpose<perm = [0, 2, 1, 3]>(q4)
  k4 = Reshape(x, apart)
  kt = Transpose<perm = [0, 2, 3, 1]>(k4)
  v4 = Reshape(x, apart)
  v = Transpose<perm = [0, 2, 1, 3]>(v4)
  product = MatMul(q, kt)
  scaled = Mul(product, scale)
  scores = Add(scaled, mask)
  weights = Softmax<axis = -1>(scores)
  o = MatMul(weights, v)
  ot = Transpose<perm = [0, 2, 1, 3]>(o)
  y = Reshape(ot, together)
}
"""

# Two heads of four channels on one key-value head, with a cache and a causal mask.
CACHED = """
g (int64[batch, sequence] input_ids, int64[batch, total_sequence] attention_mask,
   float[batch, sequence, @2D] x, float[batch, sequence, @D] narrow,
   float[batch, 1, past_sequence, @D] past_key, float[batch, 1, past_sequence, @D] past_value)
  => (float[batch, sequence, @2D] y, float[batch, 1, total_sequence, @D] key,
      float[batch, 1, total_sequence, @D] value)
<int64[4] apart = {0, 0, 2, @D}, int64[4] alone = {0, 0, 1, @D}, int64[3] together = {0, 0, @2D},
 float scale = {0.5}, int64[1] two = {2}, int64[1] first = {0}, int64 zero = {0}, int64 one = {1},
 float seen = {0.0}, float hidden = {-1e9}, int64[2] front = {0, 1}, int64[1] last = {1}>
{
  past_1 = Shape<start = 2, end = 3>(past_key)
  new_1 = Shape<start = 1, end = 2>(input_ids)
  total_1 = Add(past_1, new_1)
  past = Squeeze(past_1)
  total = Squeeze(total_1)
  rows = Range(past, total, one)
  columns = Range(zero, total, one)
  row = Unsqueeze(rows, last)
  is_seen = LessOrEqual(columns, row)
  plane = Where(is_seen, seen, hidden)
  mask = Unsqueeze(plane, front)
  q4 = Reshape(x, apart)
  q = Transpose<perm = [0, 2, 1, 3]>(q4)
  k4 = Reshape(narrow, alone)
  k = Transpose<perm = [0, 2, 1, 3]>(k4)
  v4 = Reshape(narrow, alone)
  v = Transpose<perm = [0, 2, 1, 3]>(v4)
  key = Concat<axis = -2>(past_key, k)
  value = Concat<axis = -2>(past_value, v)
  batch_1 = Shape<start = 0, end = 1>(x)
  width = Constant<value_ints = [@D]>()
  one_1 = Constant<value_ints = [1]>()
  wide = Concat<axis = 0>(batch_1, one_1, two, total_1, width)
  flat = Concat<axis = 0>(batch_1, two, total_1, width)
  k5 = Unsqueeze(key, two)
  ke = Expand(k5, wide)
  kr = Reshape(ke, flat)
  v5 = Unsqueeze(value, two)
  ve = Expand(v5, wide)
  vr = Reshape(ve, flat)
  kt = Transpose<perm = [0, 1, 3, 2]>(kr)
  product = MatMul(q, kt)
  scaled = Mul(product, scale)
  scores = Add(scaled, mask)
  weights = Softmax<axis = -1>(scores)
  o = MatMul(weights, vr)
  ot = Transpose<perm = [0, 2, 1, 3]>(o)
  y = Reshape(ot, together)
}
"""


def parse(text: str, *changes: tuple[str, str], opset: int = 18) -> ir.Model:
    """A graph from text, some of which is changed."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    proto = onnx.parser.parse_model(HEADER.format(opset=opset) + text)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def give_shape(model: ir.Model, **shapes: list) -> ir.Model:
    """Set shapes that inference does not find."""
    for node in model.graph:
        for value in node.outputs:
            if value.name in shapes:
                value.shape = ir.Shape(shapes[value.name])
                value.type = ir.TensorType(ir.DataType.FLOAT)
    return model


def cached(*changes: tuple[str, str], opset: int = 18, head_dim: int = 8) -> ir.Model:
    total = "total_sequence"
    text = CACHED.replace("@D", str(head_dim)).replace("@2D", str(2 * head_dim))
    return give_shape(
        parse(text, *changes, opset=opset),
        ke=["batch", 1, 2, total, head_dim],
        ve=["batch", 1, 2, total, head_dim],
        kr=["batch", 2, total, head_dim],
        vr=["batch", 2, total, head_dim],
        mask=[1, 1, "sequence", total],
        o=["batch", 2, "sequence", head_dim],
    )


def reasons(work: GraphPass, model: ir.Model) -> list[str]:
    """Run a pass that should refuse: why it did; nothing changed."""
    before = [node.op_type for node in model.graph]
    work(model)
    assert work.outcome.num_changed == 0
    assert [node.op_type for node in model.graph] == before
    return [refusal.reason for refusal in work.outcome.refusals]


def run(model: ir.Model, **sizes: int) -> list[np.ndarray]:
    """Run a graph on random numbers, the same for the same inputs."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    rng = np.random.default_rng(0)
    feeds = {}
    for graph_input in session.get_inputs():
        shape = [sizes.get(dim, dim) for dim in graph_input.shape]
        is_float = graph_input.type == "tensor(float)"
        drawn = rng.standard_normal(shape).astype(np.float32)
        feeds[graph_input.name] = drawn if is_float else np.ones(shape, np.int64)
    return session.run(None, feeds)


def assert_same(before: list[np.ndarray], after: list[np.ndarray]) -> None:
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5, rtol=1e-5)
