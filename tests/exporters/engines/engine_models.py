"""Tiny graphs to build engines from: a BERT with a head count for each layer, and single ops."""

from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from transformers import BertConfig, BertForSequenceClassification

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
HEAD_DIM = 16
HIDDEN = 64


class Logits(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(INPUTS, inputs, strict=True))).logits


def make_bert(num_heads: tuple[int, ...]) -> BertForSequenceClassification:
    """Return a random BERT whose layers have `num_heads` heads of width 16."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=HIDDEN,
        num_attention_heads=HIDDEN // HEAD_DIM,
        num_hidden_layers=len(num_heads),
        intermediate_size=96,
        vocab_size=200,
        max_position_embeddings=64,
        num_labels=3,
        attn_implementation="eager",
    )
    model = BertForSequenceClassification(config)
    for layer, heads in zip(model.bert.encoder.layer, num_heads, strict=True):
        core, width = layer.attention.self, heads * HEAD_DIM
        for name in ("query", "key", "value"):
            setattr(core, name, torch.nn.Linear(HIDDEN, width))
        layer.attention.output.dense = torch.nn.Linear(width, HIDDEN)
        core.num_attention_heads, core.all_head_size = heads, width
    return model.eval()


def make_batch(batch: int, length: int) -> dict[str, torch.Tensor]:
    """Return inputs with padding in every row but the first."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 200, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        mask[row, -row:] = 0
    return dict(zip(INPUTS, (ids, mask, torch.zeros_like(ids)), strict=True))


def export_bert(path: Path, num_heads: tuple[int, ...], *, dynamo: bool = False) -> Path:
    """Export `make_bert(num_heads)`: traced by TorchScript (quick) or dynamo (seconds)."""
    args = tuple(make_batch(3, 12).values())
    wrapper = Logits(make_bert(num_heads)).eval()
    names = {"input_names": list(INPUTS), "output_names": ["logits"], "opset_version": 18}
    if dynamo:
        dims = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("sequence", max=64)}
        shapes = {"inputs": (dims,) * len(args)}
        torch.onnx.export(
            wrapper, args, path, dynamo=True, dynamic_shapes=shapes, verbose=False, **names
        )
    else:
        axes = {name: {0: "batch", 1: "sequence"} for name in INPUTS}
        axes["logits"] = {0: "batch"}
        torch.onnx.export(wrapper, args, path, dynamo=False, dynamic_axes=axes, **names)
    return path


def save_op(
    path: Path,
    op: str,
    dims: tuple[int | str, ...],
    *,
    num_inputs: int = 1,
    domain: str = "",
) -> Path:
    """Save a graph of one node `the_node` of operator `op`, at opset 23."""
    inputs = [
        helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, dims)
        for index in range(num_inputs)
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)
    node = helper.make_node(
        op, [info.name for info in inputs], ["y"], name="the_node", domain=domain
    )
    graph = helper.make_graph([node], "graph", inputs, [output])
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=11), path)
    return path
