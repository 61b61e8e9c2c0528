"""A plan that is of another model than the checkpoint or graph is refused, whoever applies it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

import nirvana_deploy as api
from exporters.surgeon.prune_onnx import prune_onnx
from nirvana_deploy.cli import main
from pruning.cutting.repack import plan_for
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from pruning.plans.weight_fingerprint import SAME_WEIGHTS
from tests.exporters.surgeon.dense_graphs import assert_same_logits, export_torchscript
from tests.pruning.tiny_models import make_tiny, uneven_plan

OTHER_WEIGHTS = "made on other weights: .* layer 0's attention"
FAMILIES = ("bert", "gpt2", "llama", "t5", "modernbert", "falcon-grouped", "phi3")


def plan_on(model) -> PruningPlan:
    return plan_for(model, uneven_plan(model).layers)


def change(model, factor: float = 1e-2):
    """Train a little: every weight moves by a hundredth of its size."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(factor * parameter.std(unbiased=False) * noise)
    return model


def nudge_value_projection(model):
    with torch.no_grad():
        model.bert.encoder.layer[-1].attention.self.value.weight[:8] *= 1.01
    return model


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_checkpoint_of_the_plans_weights_in_any_type_is_taken(name, dtype, tmp_path):
    model = make_tiny(name)
    plan = plan_on(model)
    model.to(dtype).save_pretrained(tmp_path / "dense")
    result = api.apply_plan(tmp_path / "dense", plan, out=tmp_path / "out")
    assert result.weights == SAME_WEIGHTS


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_of_other_weights_is_refused_unless_forced(name, tmp_path):
    model = make_tiny(name)
    plan = plan_on(model)
    change(model).save_pretrained(tmp_path / "dense")
    with pytest.raises(NirvanaError, match=OTHER_WEIGHTS):
        api.apply_plan(tmp_path / "dense", plan, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(NirvanaError, match=OTHER_WEIGHTS):
        api.repack(model, plan)
    result = api.apply_plan(tmp_path / "dense", plan, out=tmp_path / "out", force=True)
    assert "WARNING" in result.weights
    # A later plan of the pruned model is compared with the weights that it was really made of.
    kept = PruningPlan.load(tmp_path / "out" / "plan.json")
    assert kept.weights[0].find_difference(plan_on(model).weights[0]) == ""


def test_one_changed_projection_is_seen(tmp_path):
    model = make_tiny("bert")
    plan = plan_on(model)
    with pytest.raises(NirvanaError, match="inputs of layer 2's attention"):
        api.repack(nudge_value_projection(model), plan)


def test_an_old_plan_is_applied_and_the_result_says_so(tmp_path):
    model = make_tiny("bert")
    data = plan_on(model).to_json()
    del data["weights"]
    old = PruningPlan.from_json(data)
    model.save_pretrained(tmp_path / "dense")
    result = api.apply_plan(tmp_path / "dense", old, out=tmp_path / "out")
    assert result.weights.startswith("not checked")
    assert PruningPlan.load(tmp_path / "out" / "plan.json").weights


def test_a_plan_of_a_pruned_model_knows_the_dense_weights(tmp_path):
    model = make_tiny("bert")
    plan = plan_on(model)
    model.save_pretrained(tmp_path / "dense")
    api.apply_plan(tmp_path / "dense", plan, out=tmp_path / "once")
    result = api.apply_plan(tmp_path / "once", plan, out=tmp_path / "twice")
    assert result.weights == SAME_WEIGHTS
    other = plan_on(change(make_tiny("bert")))
    with pytest.raises(NirvanaError, match=OTHER_WEIGHTS):
        api.apply_plan(tmp_path / "once", other, out=tmp_path / "no")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = export_torchscript(make_tiny(name, "eager"), folder / f"{name}.onnx")
        return made[name]

    return get


@pytest.mark.parametrize("name", FAMILIES)
def test_a_graph_of_the_plans_weights(name, graphs, tmp_path):
    plan = plan_on(make_tiny(name, "eager"))
    result = prune_onnx(graphs(name), plan, tmp_path / "out.onnx")
    assert result.graph.weights == SAME_WEIGHTS
    assert any("model type" in what for what in result.unchecked)
    other = plan_on(change(make_tiny(name, "eager")))
    with pytest.raises(NirvanaError, match=OTHER_WEIGHTS):
        prune_onnx(graphs(name), other, tmp_path / "no.onnx")
    assert not (tmp_path / "no.onnx").exists()
    forced = prune_onnx(graphs(name), other, tmp_path / "forced.onnx", force=True)
    assert "WARNING" in forced.graph.weights


def reshape_heads(plan: PruningPlan, num_heads: int, head_dim: int, kv: int = 0) -> PruningPlan:
    data = plan.to_json()
    stack = data["dims"]["stacks"][0]
    stack.update(num_heads=num_heads, num_kv_heads=kv or num_heads, head_dim=head_dim)
    for layer in data["layers"]:
        layer.update(kept_heads=list(range(num_heads // 2)))
    return PruningPlan.from_json({**data, "weights": []})


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("heads", [(2, 16), (8, 4)], ids=str)
def test_other_heads_of_the_same_weights_are_refused(heads, named, graphs, tmp_path):
    path = graphs("bert")
    if not named:
        graph = onnx.load(path)
        for number, node in enumerate(graph.graph.node):
            node.name = f"n{number}"
        path = tmp_path / "unnamed.onnx"
        onnx.save(graph, path)
    plan = reshape_heads(plan_on(make_tiny("bert", "eager")), *heads)
    with pytest.raises(NirvanaError, match=rf"num_heads {heads[0]} .* the graph has 4 in layer 0"):
        prune_onnx(path, plan, tmp_path / "no.onnx")


def test_another_model_type_is_seen_in_the_config_beside_the_graph(graphs, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "model.onnx"
    path.write_bytes(graphs("bert").read_bytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    plan = plan_on(make_tiny("bert", "eager"))
    result = prune_onnx(path, plan, tmp_path / "out.onnx")
    assert len(result.unchecked) == 1 and "count in the plan's cost alone" in result.unchecked[0]
    other = replace(plan, dims=replace(plan.dims, model_type="roberta"))
    with pytest.raises(NirvanaError, match=r"model_type roberta, .*config.json says .* bert"):
        prune_onnx(path, other, tmp_path / "no.onnx")


SHOWN = (
    *("neuron_weights", "neuron_biases", "mlp_bias", "attention_bias"),
    *("query_head_weights", "query_head_biases", "kv_head_weights", "kv_head_biases"),
)


@pytest.mark.parametrize("wrong", [0, 999], ids=str)
@pytest.mark.parametrize("size", SHOWN)
def test_other_parameters_per_unit_are_refused(size, wrong, graphs, tmp_path):
    model = make_tiny("bert", "eager")
    data = plan_on(model).to_json()
    came = data["dims"]["stacks"][0]["sizes"][size]
    data["dims"]["stacks"][0]["sizes"][size] = wrong
    plan = PruningPlan.from_json(data)
    with pytest.raises(NirvanaError, match=rf"sizes\.{size} {wrong} .* the graph has {came} in"):
        prune_onnx(graphs("bert"), plan, tmp_path / "no.onnx")
    with pytest.raises(NirvanaError, match=rf"sizes\.{size} {wrong} .* the model has {came}"):
        api.repack(model, plan)


def test_a_bias_that_the_graph_lacks_is_said(graphs, tmp_path):
    data = plan_on(make_tiny("llama", "eager")).to_json()
    sizes = data["dims"]["stacks"][0]["sizes"]
    sizes["attention_bias"] = 999
    with pytest.raises(NirvanaError, match=r"sizes\.attention_bias 999 .* the graph has 0"):
        prune_onnx(graphs("llama"), PruningPlan.from_json(data), tmp_path / "no.onnx")
    sizes["attention_bias"] = data["dims"]["stacks"][0]["hidden_size"]
    result = prune_onnx(graphs("llama"), PruningPlan.from_json(data), tmp_path / "out.onnx")
    assert any("sizes.attention_bias" in what for what in result.unchecked)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")], ids=str)
def test_weights_that_are_not_finite_are_named(wrong, graphs, tmp_path, capsys):
    model = onnx.load(graphs("bert"))
    weight = next(t for t in model.graph.initializer if "word_embeddings" in t.name)
    array = onnx.numpy_helper.to_array(weight).copy()
    array[3, 3] = wrong
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, tmp_path / "nan.onnx")
    plan = plan_on(make_tiny("bert", "eager"))
    plan.save(tmp_path / "plan.json")
    command = ["surgeon", f"{tmp_path}/nan.onnx", f"{tmp_path}/plan.json", "-o"]
    assert main([*command, f"{tmp_path}/out.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nan_tensors"] == [weight.name]


def test_force_goes_with_a_plan_alone(tmp_path, capsys):
    assert main(["prune", "bert", "--out", str(tmp_path / "out"), "--force"]) != 0
    assert "--force goes with --plan" in " ".join(capsys.readouterr().err.split())


def test_a_graph_that_is_not_the_plans_is_cut_right_by_force(graphs, tmp_path):
    model = make_tiny("bert", "eager")
    other = plan_on(change(make_tiny("bert", "eager")))
    prune_onnx(graphs("bert"), other, tmp_path / "forced.onnx", force=True)
    assert_same_logits(tmp_path / "forced.onnx", api.repack(model, other, force=True))
