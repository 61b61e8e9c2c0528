"""Plain soft gates, and gates for single query heads under grouped queries."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from exporters.export_config import ExportConfig
from exporters.export_stage import run_export
from nirvana_deploy.config_reader import read_config, to_plain
from pruning.allocation.constraints import Constraints
from pruning.checkpoints.checkpoint import load_plan, load_pruned, save_pruned
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.gates.attach_gates import describe_making, warm_start
from pruning.gates.gate_kinds import GateUnits, HardConcrete, SoftSigmoid, StraightThrough
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.one_shot_start import make_start_task, score_query_heads
from pruning.gates.projection import check_projectable, project
from pruning.gates.prune_config import PruneConfig
from pruning.gates.prune_stage import run_prune
from pruning.plans.cost import MacCost, ParameterCost, dense_cost, plan_cost
from pruning.plans.plan import PruningPlan, kept_groups
from pruning.scoring.fisher import Fisher
from pruning.scoring.known_saliencies import score_units
from pruning.training.resumable_training import find_whole_checkpoint
from tests.pruning.allocation.small_dims import GROUPED, PAIR, TableCost
from tests.pruning.tiny_models import batch_for, live_logits, make_tiny
from tests.pruning.training.tiny_tasks import make_headed, write_headed, write_rows

QUERY = GateUnits(query_heads=True)
LOOSE = Constraints(neuron_multiple=1)
KINDS = {"hard": StraightThrough(), "hard-concrete": HardConcrete(), "soft": SoftSigmoid()}


def randomise(registry: GateRegistry, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for gate in registry.parameters():
        gate.data = torch.randn(gate.shape, generator=generator)
    for part in ("mlp", "attention", "cross_attention"):
        registry.block_gates(part).logit.data.fill_(1.5)


def test_a_soft_gate_is_its_sigmoid_and_nothing_is_rounded() -> None:
    registry = GateRegistry(GROUPED, ParameterCost(), SoftSigmoid())
    randomise(registry, 0)
    gates = registry.mlps[0].gate_N
    for training in (True, False):
        registry.train(training)
        assert torch.equal(gates.mask(), torch.sigmoid(gates.logit))
    assert torch.equal(gates.kept(), gates.mask()), "the density is the sum of the masks"
    assert gates.list_open() == tuple((gates.logit > 0).nonzero().flatten().tolist())
    probability = torch.cat([g.probability() for g in registry.gate_tensors() if g.learns])
    undecided = ((probability > 0.1) & (probability < 0.9)).float().mean()
    assert registry.undecided_fraction() == pytest.approx(float(undecided))
    gates.logit.data.fill_(50.0)
    registry.constrain()
    gates.mask().sum().backward()
    assert (gates.logit.grad > 0).all(), "no logit runs off to where it cannot learn"


def test_recipes_name_the_kinds_of_gates() -> None:
    for given, kind in [
        ({"start_logit": 3.0}, SoftSigmoid(start_logit=3.0)),
        ("soft_sigmoid", SoftSigmoid()),
        ({}, StraightThrough()),
        ({"stretch": 0.1}, HardConcrete()),
    ]:
        config = read_config(PruneConfig, {"gate_kind": given})
        assert config.gate_kind == kind
        assert read_config(PruneConfig, to_plain(config)) == config
    config = read_config(PruneConfig, {"units": {"query_heads": True}, "gate_kind": "soft_sigmoid"})
    assert config.units == QUERY
    assert describe_making(config)["gates"] == "soft_sigmoid"
    with pytest.raises(NirvanaError, match=r"start_logit must be .*, got -1"):
        SoftSigmoid(start_logit=-1)
    with pytest.raises(NirvanaError, match=r"query_heads adds gates .*Set units.heads to true"):
        GateUnits(heads=False, query_heads=True)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", ["llama", "qwen3", "falcon-grouped", "phi3", "gemma2", "bart"])
@torch.no_grad()
def test_query_gates_do_what_repacking_does(name: str, kind, tmp_path: Path) -> None:
    model = make_tiny(name)
    batch = batch_for(model)
    registry = GateRegistry.attach(model, ParameterCost(), kind, QUERY)
    randomise(registry, 1)
    layers = project(registry, 0.45, LOOSE)
    registry.freeze(layers)
    assert registry.kept_layers() == layers
    assert registry.undecided_fraction() == 0
    gated = live_logits(model.eval(), batch)
    registry.detach(model)
    plan = plan_for(model, layers)
    smaller = repack(model, plan)
    torch.testing.assert_close(live_logits(smaller, batch), gated)
    save_pruned(smaller, tmp_path)
    torch.testing.assert_close(live_logits(load_pruned(tmp_path), batch), gated)
    size = plan.dims.layers[0].heads_per_group
    dims = plan.dims.layers[0]
    kept = [layer.kept_heads or () for layer in layers]
    whole = [len(heads) == size * len(kept_groups(heads, dims)) for heads in kept]
    assert size == 1 or not all(whole), "some group keeps a part of its heads"
    assert load_plan(tmp_path).layers == layers


@pytest.mark.parametrize("cost", [ParameterCost(), MacCost(64), TableCost()], ids=lambda c: c.name)
@pytest.mark.parametrize("dims", [GROUPED, PAIR], ids=["grouped", "pair"])
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_projection_keeps_equally_many_heads_within_the_budget(cost, dims, uniform, seed) -> None:
    registry = GateRegistry(dims, cost, units=QUERY)
    randomise(registry, seed)
    constraints = replace(LOOSE, uniform=uniform, avoid_one_head=seed == 2)
    layers = project(registry, 0.5, constraints)
    plan = PruningPlan(dims=dims, layers=layers, config_hash="")  # checks the groups
    left = 0.5 * dense_cost(dims, cost) - plan_cost(plan, cost)
    assert left >= 0
    if not uniform and cost.name == "parameters":
        assert left < max(cost.neuron_cost(stack) for stack in dims.stacks)
    if uniform:
        for stack, kept in plan.stacks():
            assert len({len(layer.kept_heads or ()) for layer in kept}) == 1, stack.name
    if seed == 2:
        assert all(len(layer.kept_heads or ()) != 1 for layer in layers)
    registry.freeze(layers)
    assert registry.kept_layers() == layers
    assert float(registry.kept_density().detach()) * dense_cost(dims, cost) == pytest.approx(
        plan_cost(plan, cost), rel=1e-5
    )


def test_open_heads_stay_and_shut_ones_go() -> None:
    registry = GateRegistry(GROUPED, ParameterCost(), units=QUERY)
    for gates in registry.gate_tensors():
        gates.logit.data.fill_(1.0)
    for attention in registry.attentions:
        attention.gate_Q.logit.data = torch.tensor([1.0, -1.0] * 4)
    dense = dense_cost(GROUPED, ParameterCost())
    heads = 12 * ParameterCost().query_head_cost(GROUPED.layers[0])
    layers = project(registry, 1 - heads / dense, LOOSE)
    assert [layer.kept_heads for layer in layers] == [(0, 2, 4, 6)] * 3
    assert project(registry, 1.0, LOOSE)[0].kept_heads == tuple(range(8)), "the rest is filled up"


def test_groups_that_must_stay_get_narrower_for_a_small_budget() -> None:
    cost, constraints = ParameterCost(), replace(LOOSE, may_drop=False, min_groups=4)
    registry = GateRegistry(GROUPED, cost, units=QUERY)
    for gates in registry.gate_tensors():
        gates.logit.data.fill_(1.0)
    with pytest.raises(NirvanaError, match="cannot be reached"):
        project(GateRegistry(GROUPED, cost), 0.4, constraints)
    layers = project(registry, 0.4, constraints)
    assert {len(layer.kept_heads or ()) for layer in layers} <= {4, 8}
    with pytest.raises(NirvanaError, match="cannot be reached"):
        check_projectable(GROUPED, cost, 0.1, constraints, QUERY)


@pytest.mark.parametrize("cost", [ParameterCost(), TableCost()], ids=lambda c: c.name)
def test_every_query_gate_feels_the_budget(cost) -> None:
    registry = GateRegistry(GROUPED, cost, SoftSigmoid(), QUERY)
    randomise(registry, 0)
    registry.kept_density().backward()
    assert all((gate.grad > 0).all() for gate in registry.parameters())
    assert float(registry.head_gate_sum().detach()) > sum(
        float(a.gate_Q.probability().detach().sum()) for a in registry.attentions
    )


def test_query_gates_start_from_the_fisher_information_of_heads() -> None:
    model = make_headed("causal-lm")
    ids = torch.randint(4, 20, (4, 8), generator=torch.Generator().manual_seed(0))
    task = make_start_task(model, [{"input_ids": ids, "labels": ids}])
    query_scores = score_query_heads(task)
    assert {len(score) for score in query_scores.values()} == {6}
    registry = GateRegistry.attach(model, MacCost(8), units=QUERY)
    warm_start(registry, score_units(Fisher(), task), query_scores)
    for sub_block, gates in registry.sub_block_gates():
        if sub_block in query_scores:
            order = gates.gate_Q.logit.detach().argsort()
            assert torch.equal(order, query_scores[sub_block].argsort())
    assert score_query_heads(make_start_task(make_tiny("bert"), [])) == {}, "each has its own gate"


@pytest.mark.parametrize(
    ("kind", "units"),
    [(SoftSigmoid(), GateUnits()), (StraightThrough(), QUERY), (SoftSigmoid(), QUERY)],
    ids=["soft", "query", "soft-query"],
)
def test_a_decoder_is_pruned_resumed_and_exported(kind, units, tmp_path: Path) -> None:
    write_headed(tmp_path / "dense", "causal-lm", max_position_embeddings=160)
    data = write_rows(tmp_path / "rows", "causal-lm")
    config = PruneConfig(
        budget=0.5,
        gate_kind=kind,
        units=units,
        num_epochs=8,
        batch_size=8,
        gate_learning_rate=0.5,
        save_steps=5,
        warm_start_rows=8,
        sequence_length=16,
        constraints=LOOSE,
        bf16=False,
    )
    out_dir = tmp_path / "out"
    result = run_prune(tmp_path / "dense", data, config, out_dir)
    assert all(proof["max_abs_difference"] < 1e-5 for proof in result["proofs"])
    assert 0 < 0.5 - result["budget"]["kept_fraction"] + 1e-9 < 0.05
    assert result["undecided_fraction"] is not None
    plan = load_plan(out_dir / "checkpoint")
    assert plan.made_by["gates"] == describe_making(config)["gates"]
    once = load_pruned(out_dir / "checkpoint").state_dict()
    last = find_whole_checkpoint(out_dir / "trainer")
    assert last is not None
    shutil.rmtree(last)
    shutil.rmtree(out_dir / "checkpoint")
    again = run_prune(tmp_path / "dense", data, config, out_dir)
    assert again["curve"] == result["curve"]
    found = load_pruned(out_dir / "checkpoint").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in once.items())
    assert read_model(load_pruned(out_dir / "checkpoint")).current.layers == plan.layers
    if units == QUERY:
        exported = run_export(
            tmp_path / "dense", out_dir / "checkpoint", ExportConfig(), tmp_path / "onnx"
        )
        assert exported["pruned"]["verification"]["passed"]
