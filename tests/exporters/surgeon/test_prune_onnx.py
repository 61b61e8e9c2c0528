"""Oracle: the pruned graph computes what the repacked model does, for every family and plan."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx
import pytest

from exporters.surgeon.prune_onnx import prune_onnx
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from tests.exporters.surgeon.dense_graphs import (
    assert_same_logits,
    export_torchscript,
    weight_shapes,
)
from tests.pruning.tiny_models import PLANS, TINY, block_plan, dropping_plan, make_tiny, uneven_plan

# The TorchScript exporter's own graph of ALiBi does not pass ONNX's check; see test_traced.
FAMILIES = tuple(name for name in TINY if name != "falcon-alibi")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """The dense graph of a family, exported once."""
    folder = tmp_path_factory.mktemp("dense")

    @cache
    def export(name: str) -> Path:
        return export_torchscript(make_tiny(name, "eager"), folder / f"{name}.onnx")

    return export


@pytest.mark.parametrize("plan_name", PLANS)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_pruned_graph_is_that_of_the_repacked_model(name, plan_name, dense, tmp_path):
    model = make_tiny(name, "eager")
    plan = PLANS[plan_name](model)
    try:
        small = repack(model, plan)
    except NirvanaError as refusal:
        with pytest.raises(NirvanaError, match="dropped"):
            prune_onnx(dense(name), plan, tmp_path / "refused.onnx")
        pytest.skip(f"repack refuses the plan: {refusal}")
    out = tmp_path / "pruned.onnx"
    result = prune_onnx(dense(name), plan, out)
    assert_same_logits(out, small)
    assert result.graph.located_by == "names"


@pytest.mark.parametrize("name", ["bert", "llama", "phi3", "gpt2", "bart"])
def test_weights_have_the_shapes_that_an_export_of_the_repacked_model_has(name, dense, tmp_path):
    model = make_tiny(name, "eager")
    plan = uneven_plan(model)
    out = tmp_path / "pruned.onnx"
    prune_onnx(dense(name), plan, out)
    again = export_torchscript(repack(model, plan), tmp_path / "again.onnx")
    assert weight_shapes(out) == weight_shapes(again)


@pytest.mark.parametrize("name", ["bert", "llama", "opt"])
def test_nothing_is_left_of_what_was_dropped(name, dense, tmp_path):
    model = make_tiny(name, "eager")
    for make_plan in (dropping_plan, block_plan):
        plan = make_plan(model)
        out = tmp_path / f"{make_plan.__name__}.onnx"
        prune_onnx(dense(name), plan, out)
        again = export_torchscript(repack(model, plan), tmp_path / f"{make_plan.__name__}2.onnx")
        assert weight_shapes(out) == weight_shapes(again)
        nodes = [node.op_type for node in onnx.load(out).graph.node]
        assert nodes.count("Identity") <= [n.op_type for n in onnx.load(again).graph.node].count(
            "Identity"
        )
        assert nodes.count("Softmax") == sum(layer.num_kept_heads > 0 for layer in plan.layers)


def test_a_plan_that_keeps_all_leaves_the_graph(dense, tmp_path):
    model = make_tiny("bert", "eager")
    whole = PruningPlan.dense(uneven_plan(model).dims, "")
    out = tmp_path / "same.onnx"
    result = prune_onnx(dense("bert"), whole, out)
    assert result.graph.nodes_before == result.graph.nodes_after
    assert_same_logits(out, model)


def test_names_of_weights_stay(dense, tmp_path):
    out = tmp_path / "pruned.onnx"
    prune_onnx(dense("bert"), uneven_plan(make_tiny("bert")), out)
    names = {t.name for t in onnx.load(dense("bert")).graph.initializer}
    cut = {t.name for t in onnx.load(out).graph.initializer}
    assert {n for n in names if n.endswith("bias")} <= cut
    assert {n for n in names if n.startswith("onnx::MatMul")} <= cut
