from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from exporters.trace.graph_inputs import draw_inputs
from exporters.trace.graph_part import GraphPart, GraphTensor
from exporters.trace.trace_part import trace_graph, write_graph
from pruning.errors import NirvanaError

IDS = GraphTensor(name="input_ids", dtype=torch.int64, shape=("batch", "sequence"), limit=9)
MASK = GraphTensor(name="attention_mask", dtype=torch.int64, shape=("batch", "sequence"), limit=2)
SCORES = GraphTensor(name="scores", dtype=torch.float32, shape=("batch", "sequence"))


class Scores(nn.Module):
    def forward(self, *inputs):
        ids, mask = inputs
        return (ids * mask * 1.5,)


class ScoresWithoutMaskInExports(nn.Module):
    def forward(self, *inputs):
        ids, mask = inputs
        return (ids * 1.5 if torch.compiler.is_exporting() else ids * mask * 1.5,)


class Branching(nn.Module):
    def forward(self, *inputs):
        ids, mask = inputs
        return (ids * 1.5 if ids.sum() > 3 else mask * 1.5,)


class RoundedToBfloat16(nn.Module):
    def forward(self, *inputs):
        ids, mask = inputs
        return (((ids / 7).bfloat16() * (mask + 0.3).bfloat16()).float(),)


def part_of(module: nn.Module, *outputs: GraphTensor) -> GraphPart:
    return GraphPart(name="model", module=module, inputs=(IDS, MASK), outputs=outputs or (SCORES,))


def test_a_graph_is_written_as_promised(tmp_path: Path) -> None:
    write_graph(trace_graph(part_of(Scores()), 20), tmp_path / "new" / "model.onnx")
    model = onnx.load(tmp_path / "new" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask"]
    assert model.opset_import[0].version == 20


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (GraphTensor(name="scores", dtype=torch.float32, shape=("batch", 7)), r"\[batch, 7\]"),
        (GraphTensor(name="scores", dtype=torch.float16, shape=SCORES.shape), r"FLOAT16 \[batch"),
    ],
)
def test_a_graph_with_other_dims_or_types_is_refused(tensor: GraphTensor, expected: str) -> None:
    with pytest.raises(
        NirvanaError, match=rf"scores as .*{expected}.* has FLOAT \[batch, sequence\]"
    ):
        trace_graph(part_of(Scores(), tensor), 18)


def test_an_input_that_got_lost_is_found() -> None:
    with pytest.raises(NirvanaError, match="input attention_mask of model leads nowhere"):
        trace_graph(part_of(ScoresWithoutMaskInExports()), 18)


def test_a_module_that_torch_cannot_export_is_refused_with_the_reason() -> None:
    with pytest.raises(NirvanaError, match=r"the graph model of Branching: .*guard"):
        trace_graph(part_of(Branching()), 18)


def test_steps_in_bfloat16_run_where_there_are_no_such_kernels_and_round_alike(
    tmp_path: Path,
) -> None:
    part = part_of(RoundedToBfloat16())
    write_graph(trace_graph(part, 18), tmp_path / "model.onnx")
    ids, mask = draw_inputs(part.inputs, {"batch": 4, "sequence": 50}, padding="left")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (came,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    assert torch.equal(torch.from_numpy(came), part.module(ids, mask)[0])


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_padded_batches_have_padding_and_one_live_token_a_row(batch: int, padding: str) -> None:
    (mask,) = draw_inputs((MASK,), {"batch": batch, "sequence": 20}, padding=padding)
    assert (mask == 0).any()
    assert (mask.sum(dim=1) >= 1).all()
    assert batch == 1 or (mask.sum(dim=1) == 20).any()
    assert torch.equal(mask, mask.sort(dim=1, descending=padding == "right").values)


def test_positions_count_the_live_tokens_behind_a_cache() -> None:
    total = GraphTensor(
        name="attention_mask", dtype=torch.int64, shape=("batch", "total_sequence"), limit=2
    )
    positions = GraphTensor(
        name="position_ids", dtype=torch.int64, shape=("batch", "sequence"), limit=99
    )
    sizes = {"batch": 2, "sequence": 2, "past_sequence": 4}
    mask, drawn = draw_inputs((total, positions), sizes, padding="left")
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]
    assert drawn.tolist() == [[4, 5], [2, 3]]
