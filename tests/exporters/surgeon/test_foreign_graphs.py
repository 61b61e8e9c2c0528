"""Graphs of others: without any names, fused by ONNX Runtime, with caches; and no wrong ones."""

from __future__ import annotations

import logging
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from transformers import DynamicCache

from exporters.surgeon.drop_blocks import check_cache
from exporters.surgeon.prune_onnx import prune_onnx
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from tests.exporters.surgeon.dense_graphs import (
    assert_same_logits,
    export_cached,
    export_torchscript,
)
from tests.pruning.tiny_models import block_plan, dropping_plan, make_tiny, uneven_plan

# One for each way to be different: post-norm, fused and grouped projections, Conv1D, two stacks.
UNNAMED = (
    *("bert", "modernbert", "vit", "llama", "qwen3", "phi3", "gpt2", "gpt_neox", "opt-post-norm"),
    *("falcon-grouped", "falcon-multi-query", "t5", "bart"),
)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")

    @cache
    def export(name: str) -> Path:
        return export_torchscript(make_tiny(name, "eager"), folder / f"{name}.onnx")

    return export


def strip_names(path: Path, out: Path) -> Path:
    """Write a graph whose nodes and weights are numbered, as tools leave them."""
    model = onnx.load(path)
    weights = {tensor.name: f"w{i}" for i, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = weights[tensor.name]
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
        del node.metadata_props[:]
        node.input[:] = [weights.get(name, name) for name in node.input]
    onnx.save(model, out)
    return out


@pytest.mark.parametrize("make_plan", [uneven_plan, block_plan], ids=["uneven", "block"])
@pytest.mark.parametrize("name", UNNAMED)
def test_a_graph_without_names(name, make_plan, dense, tmp_path):
    model = make_tiny(name, "eager")
    plan = make_plan(model)
    out = tmp_path / "pruned.onnx"
    result = prune_onnx(strip_names(dense(name), tmp_path / "stripped.onnx"), plan, out)
    assert result.graph.located_by == "pattern"
    assert_same_logits(out, repack(model, plan))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_graph_of_transformers_exporter(name, tmp_path):
    exporters = pytest.importorskip("transformers.exporters", reason="transformers 5.14 or newer")
    model = make_tiny(name, "eager")
    ids = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0  # without padding it leaves the mask out of the graph
    inputs = {"input_ids": ids, "attention_mask": mask}
    written = exporters.OnnxExporter().export(
        model, inputs, config=exporters.OnnxConfig(dynamic=True)
    )
    ir.save(written.program, tmp_path / "dense.onnx")
    plan = uneven_plan(model)
    prune_onnx(tmp_path / "dense.onnx", plan, tmp_path / "pruned.onnx")
    with torch.no_grad():
        expected = repack(model, plan)(**inputs).logits.numpy()
    session = onnxruntime.InferenceSession(tmp_path / "pruned.onnx")
    found = session.run(["logits"], {key: value.numpy() for key, value in inputs.items()})[0]
    if expected.ndim == 3:  # what is computed for padding means nothing
        found, expected = found[mask == 1], expected[mask == 1]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "dynamo"), [("llama", False), ("gpt2", False), ("gpt2", True)])
def test_a_cache_of_others_is_cut_with_its_layer(name, dynamo, tmp_path):
    """Their graphs ask the first cache for its length, behind nodes that change nothing."""
    dense = export_cached(make_tiny(name, "eager").eval(), tmp_path / "dense.onnx", dynamo=dynamo)
    stripped = strip_names(dense, tmp_path / "stripped.onnx")
    pairs = product((dense, stripped), (uneven_plan, dropping_plan, block_plan))
    for number, (path, make_plan) in enumerate(pairs):
        out = tmp_path / f"{number}.onnx"
        model = make_tiny(name, "eager")
        plan = make_plan(model)
        prune_onnx(path, plan, out)
        session = onnxruntime.InferenceSession(out)
        past = [each for each in session.get_inputs() if each.name.startswith("past")]
        present = {each.name: each for each in session.get_outputs()}
        for each in past:
            after = present[each.name.replace("past_key_values", "present")]
            assert after.shape[1] in (each.shape[1], None) or isinstance(after.shape[1], str)
        small = repack(model, plan).eval()
        draw = np.random.default_rng(0)
        tensors = {
            each.name: draw.standard_normal((3, each.shape[1], 7, each.shape[3])).astype("f")
            for each in past
        }
        ids = torch.from_numpy(draw.integers(3, 90, (3, 2)))
        mask = torch.ones(3, 9).long()
        mask[1, :3] = 0
        nothing = torch.zeros(3, 1, 7, 1)  # of a block without attention
        cache = DynamicCache(
            [
                tuple(
                    torch.from_numpy(tensors[entry]) if entry in tensors else nothing
                    for entry in (f"past_key_values.{n}.key", f"past_key_values.{n}.value")
                )
                for n in range(small.config.num_hidden_layers)
            ]
        )
        with torch.no_grad():
            expected = small(input_ids=ids, attention_mask=mask, past_key_values=cache).logits
        feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), **tensors}
        found = session.run(["logits"], feeds)[0]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5, rtol=1e-5)


def test_a_graph_whose_inputs_do_not_share_names_of_dimensions(tmp_path):
    """torch.export names the batch of ids and of mask apart where nothing makes them equal."""
    model = make_tiny("gpt2", "eager")
    path = export_torchscript(model, tmp_path / "dense.onnx")
    graph = onnx.load(path)
    for number, value in enumerate(graph.graph.input):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"s{number}{axis}"
    onnx.save(graph, path)
    plan = uneven_plan(model)
    prune_onnx(path, plan, tmp_path / "pruned.onnx")
    assert_same_logits(tmp_path / "pruned.onnx", repack(model, plan))


def test_a_cache_that_does_not_fit_the_next_call_is_refused():
    graph = ir.Graph(
        [ir.Value(name="past_key_values.0.key", shape=ir.Shape(["b", 4, "p", 8]))],
        [ir.Value(name="present.0.key", shape=ir.Shape(["b", 3, "t", 8]))],
        nodes=[],
    )
    with pytest.raises(NirvanaError, match="no call could follow another"):
        check_cache(graph)
    graph.outputs[0].shape = ir.Shape(["b", 4, "t", 8])
    check_cache(graph)


def test_positions_with_heads_and_no_names_are_refused(dense, tmp_path):
    """DeBERTa multiplies heads by projected positions too: these are not found by pattern."""
    plan = uneven_plan(make_tiny("deberta-v2"))
    stripped = strip_names(dense("deberta-v2"), tmp_path / "stripped.onnx")
    with pytest.raises(NirvanaError, match="This structure is not known"):
        prune_onnx(stripped, plan, tmp_path / "pruned.onnx")


@pytest.mark.parametrize("make_plan", [uneven_plan, dropping_plan, block_plan])
@pytest.mark.parametrize("fused", ["Attention", "MultiHeadAttention"])
def test_a_graph_that_onnxruntime_optimised(fused, make_plan, dense, tmp_path):
    fusion = pytest.importorskip("onnxruntime.transformers.fusion_options")
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    logging.disable(logging.WARNING)
    try:
        options = fusion.FusionOptions("bert")
        options.use_multi_head_attention = fused == "MultiHeadAttention"
        optimised = optimizer.optimize_model(
            str(dense("bert")), "bert", num_heads=4, hidden_size=32, optimization_options=options
        )
    finally:
        logging.disable(logging.NOTSET)
    assert [node.op_type for node in optimised.model.graph.node].count(fused) == 3
    path, out = tmp_path / "optimised.onnx", tmp_path / "pruned.onnx"
    onnx.save(optimised.model, path)
    model = make_tiny("bert", "eager")
    plan = make_plan(model)
    prune_onnx(path, plan, out)
    # The optimiser makes lengths of the mask, so that padding on the left is lost in its own graph.
    assert_same_logits(out, repack(model, plan), sides=("right",))
    heads = [
        attribute.i
        for node in onnx.load(out).graph.node
        for attribute in node.attribute
        if node.op_type == fused and attribute.name == "num_heads"
    ]
    assert heads == [layer.num_kept_heads for layer in plan.layers if layer.num_kept_heads]
