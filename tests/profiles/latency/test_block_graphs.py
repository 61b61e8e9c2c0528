"""Oracle: the whole graph. Blocks run one after the other give what it gives."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from profiles.latency.sample_blocks import BlockGraph, cut_blocks
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import make_encoder


def make_graph() -> ir.Model:
    """x0 -> Tanh -> x1 -> Mul(mask3) -> x2 -> Mul(mask3) -> x3 -> ...; mask3 is shared."""
    proto = make_encoder(repeats=1)
    nodes = list(proto.graph.node)
    tail = next(node for node in nodes if node.op_type == "ReduceMean")
    tail.input[0] = "x4"
    extra = [
        helper.make_node("Mul", ["x1", "mask3"], ["x2"]),
        helper.make_node("Cast", ["input_ids"], ["own"], to=1),  # only the third block's
        helper.make_node("Unsqueeze", ["own", "last"], ["own3"]),
        helper.make_node("Mul", ["x2", "mask3"], ["x2m"]),
        helper.make_node("Add", ["x2m", "own3"], ["x3"]),
        helper.make_node("Identity", ["x3"], ["x4"]),
    ]
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes[:-2], *extra, *nodes[-2:]])
    return ir.from_proto(proto)


def run(model: ir.Model, feeds: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    proto = ir.to_proto(model)
    named = {output.name for output in proto.graph.output}
    extra = [onnx.ValueInfoProto(name=name) for name in outputs if name not in named]
    proto.graph.output.extend(extra)
    return dict(zip(outputs, ReferenceEvaluator(proto).run(outputs, feeds), strict=True))


CUTS = ["x0", "x1", "x2", "x3", "x4"]


def cut() -> tuple[BlockGraph, ...]:
    return cut_blocks(make_graph(), CUTS)


def test_blocks_one_after_the_other_are_the_whole() -> None:
    draw = np.random.default_rng(0)
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    feeds = {"input_ids": draw.integers(0, 50, (2, 4)), "attention_mask": mask}
    blocks = cut()
    needed = sorted({name for block in blocks for name in block.inputs} - set(feeds))
    values = {**feeds, **run(make_graph(), feeds, [*needed, *CUTS])}
    for number, block in enumerate(blocks):
        given = {name: values[name] for name in block.inputs}
        made = run(block.model, given, [CUTS[number + 1]])[CUTS[number + 1]]
        np.testing.assert_allclose(made, values[CUTS[number + 1]], rtol=1e-6)


def test_what_blocks_share_comes_as_an_input_and_the_rest_is_theirs() -> None:
    tanh, second, third, handed_on = cut()
    assert tanh.inputs == ("x0",)
    assert second.inputs == ("x1", "mask3")  # not what makes the mask
    assert third.inputs == ("x2", "input_ids", "mask3")  # its own Cast is part of it
    assert [block.num_nodes for block in (tanh, second, third, handed_on)] == [1, 1, 4, 0]


def test_cuts_that_are_none_are_refused() -> None:
    with pytest.raises(NirvanaError, match="has no value 'y' to be cut at"):
        cut_blocks(make_graph(), ["x0", "y"])
    with pytest.raises(NirvanaError, match="'x1' does not follow from 'x2'"):
        cut_blocks(make_graph(), ["x2", "x1"])
