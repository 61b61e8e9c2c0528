import onnx
import onnxruntime
import pytest
import torch

from exporters.export_config import ExportConfig
from exporters.trace.list_parts import list_parts
from pruning.cutting.repack import repack
from tests.exporters.trace.traced import Traced, assert_same_as_torch, prune_mixed, trace_tiny
from tests.pruning.tiny_models import PLANS, make_tiny


@pytest.fixture(scope="module")
def pruned(tmp_path_factory) -> Traced:
    folder = tmp_path_factory.mktemp("llama")
    return trace_tiny(folder, "llama", prune_mixed, num_hidden_layers=4)["model"]


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> dict[str, Traced]:
    folder = tmp_path_factory.mktemp("llama-split")
    return trace_tiny(folder, "llama", prune_mixed, graphs="split", num_hidden_layers=4)


def test_the_merged_graph_of_a_pruned_llama_is_torch(pruned: Traced) -> None:
    assert_same_as_torch(pruned)


def test_prefill_and_decode_apart_are_torch(split: dict[str, Traced]) -> None:
    assert list(split) == ["decoder_model", "decoder_with_past_model"]
    for traced in split.values():
        assert_same_as_torch(traced)


def test_layers_have_their_own_cache_shapes_and_those_without_attention_none(
    pruned: Traced,
) -> None:
    graph = onnx.load(pruned.path).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "total_sequence"],
        "position_ids": ["batch", "sequence"],
        "past_key_values.0.key": ["batch", 2, "past_sequence", 8],
        "past_key_values.0.value": ["batch", 2, "past_sequence", 8],
        "past_key_values.2.key": ["batch", 1, "past_sequence", 8],
        "past_key_values.2.value": ["batch", 1, "past_sequence", 8],
        "logits": ["batch", "sequence", 99],
        "present.0.key": ["batch", 2, "total_sequence", 8],
        "present.0.value": ["batch", 2, "total_sequence", 8],
        "present.2.key": ["batch", 1, "total_sequence", 8],
        "present.2.value": ["batch", 1, "total_sequence", 8],
    }


def test_every_free_dim_inside_the_graph_has_a_readable_name(pruned: Traced) -> None:
    graph = onnx.load(pruned.path).graph
    symbols = {
        dim.dim_param
        for value in (*graph.input, *graph.output, *graph.value_info)
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    }
    assert {"batch", "sequence", "past_sequence", "total_sequence"} <= symbols
    named = {"batch", "sequence", "past_sequence", "total_sequence"}
    assert not {s for s in symbols if not set(s.replace("*", " ").split()) & named}


def test_greedy_generation_in_steps_is_that_of_the_whole_text(pruned: Traced) -> None:
    session = onnxruntime.InferenceSession(pruned.path)
    model, inputs = pruned.part.module.model, pruned.part.inputs
    text = torch.tensor([[5, 17, 33, 8]])
    with torch.no_grad():
        expected = model.generate(text, max_new_tokens=6, do_sample=False, pad_token_id=0)
    past = {
        i.name: torch.zeros(1, i.shape[1], 0, i.shape[3]).numpy()
        for i in inputs
        if "past" in i.name
    }
    tokens, new = text, text
    for _ in range(6):
        count = tokens.shape[1]
        feeds = {
            "input_ids": new.numpy(),
            "attention_mask": torch.ones(1, count, dtype=torch.long).numpy(),
            "position_ids": torch.arange(count - new.shape[1], count)[None].numpy(),
        }
        logits, *present = session.run(None, feeds | past)
        past = dict(zip(past, present, strict=True))
        new = torch.from_numpy(logits)[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, new], dim=1)
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("plan", PLANS)
def test_the_entries_are_those_of_the_layers_with_attention(plan: str) -> None:
    dense = make_tiny("llama", "eager")
    model = repack(dense, PLANS[plan](dense))
    (part,) = list_parts(model, ExportConfig())
    kept = [layer for layer in PLANS[plan](dense).layers if not layer.dropped]
    expected = [
        (f"past_key_values.{number}.{name}", len({head // 2 for head in layer.kept_heads}))
        for number, layer in enumerate(kept)
        if layer.kept_heads
        for name in ("key", "value")
    ]
    found = [(i.name, i.shape[1]) for i in part.inputs if i.name.startswith("past")]
    assert found == expected


@pytest.mark.parametrize(
    ("opset", "operator"), [(20, "Softmax"), (23, "RMSNormalization"), (24, "")]
)
def test_other_opsets_are_torch(opset: int, operator: str, tmp_path) -> None:
    traced = trace_tiny(tmp_path, "llama", opset=opset, num_hidden_layers=1)["model"]
    model = onnx.load(traced.path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert not operator or operator in {node.op_type for node in model.graph.node}
    assert_same_as_torch(traced)
