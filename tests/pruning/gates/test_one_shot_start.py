from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from pruning.allocation.constraints import Constraints
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.gates.attach_gates import attach_gates
from pruning.gates.gate_kinds import GateUnits, HardConcrete
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.one_shot_start import OneShotStart, find_one_shot_start
from pruning.gates.prune_config import PruneConfig, ScheduleConfig
from pruning.oneshot.oneshot_config import LeastSquares
from pruning.plans.cost import ParameterCost, dense_cost, plan_cost
from pruning.plans.sub_block import SubBlock, kept_units
from pruning.repair.repair import prune_in_place
from pruning.scoring.known_saliencies import find_saliency, score_units
from pruning.scoring.saliency import ScoringTask
from tests.pruning.oneshot.tiny_tasks import logits_of, make_task, task_for

AT_BUDGET = ScheduleConfig(kind="at_budget", num_stages=1)
CONFIG = PruneConfig(
    budget=0.4,
    cost="parameters",
    constraints=Constraints(neuron_multiple=8),
    warm_start="obs",
    schedule=AT_BUDGET,
)
# A plain encoder, grouped queries, a cross-attention.
NAMES = ("bert", "llama", "bart")
LEAST = 0.25  # at which whole sub-blocks are emptied


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Started:
    """A model with gates that have just started, its dense self, and the one-shot start."""

    task: ScoringTask
    registry: GateRegistry
    dense: ScoringTask
    start: OneShotStart


def find_start(task: ScoringTask, budget: float) -> OneShotStart:
    scores = score_units(find_saliency("obs"), task)
    dims = read_model(task.model).dims
    return find_one_shot_start(task, dims, scores, ParameterCost(), budget, CONFIG.constraints)


def start_gates(name: str, budget: float = CONFIG.budget, units: GateUnits | None = None):
    task, dense = make_task(name), make_task(name)
    config = replace(CONFIG, budget=budget, units=units or GateUnits())
    registry = attach_gates(task.model, config, batches=task.batches).registry
    start = find_start(make_task(name), budget)
    return Started(task=task, registry=registry, dense=dense, start=start)


@pytest.fixture(scope="module", params=NAMES)
def started(request: pytest.FixtureRequest) -> Started:
    return start_gates(request.param)


def is_kept(started: Started, sub_block: SubBlock) -> torch.Tensor:
    dims = started.registry.dims.layers[sub_block.layer]
    units = kept_units(started.start.layers[sub_block.layer], sub_block.part, dims)
    kept = torch.zeros(len(started.start.survival[sub_block]), dtype=torch.bool)
    kept[list(units or ())] = True
    return kept


def assert_starts_as_one_shot_ends(started: Started) -> None:
    """The plan, repaired by the walk and repacked, on a model that never had gates."""
    layers = started.start.layers
    assert started.registry.kept_layers() == layers
    other = task_for(copy.deepcopy(started.dense.model))
    prune_in_place(other, layers, LeastSquares())
    smaller = repack(other.model, plan_for(other.model, layers))
    came, expected = logits_of(started.task), logits_of(replace(other, model=smaller))
    torch.testing.assert_close(came, expected)
    assert float((came - logits_of(started.dense)).abs().max()) > 1e-3, "nothing was pruned"


def test_the_gated_model_computes_what_one_shot_pruning_leaves(started: Started) -> None:
    assert_starts_as_one_shot_ends(started)


@pytest.mark.parametrize("name", NAMES)
def test_sub_blocks_that_are_emptied_start_shut(name: str) -> None:
    started = start_gates(name, LEAST)
    kept = [is_kept(started, sub_block) for sub_block in started.start.survival]
    assert any(not units.any() for units in kept)
    assert_starts_as_one_shot_ends(started)


def test_block_gates_are_not_needed() -> None:
    units = GateUnits(mlp_blocks=False, attention_blocks=False)
    assert_starts_as_one_shot_ends(start_gates("llama", LEAST, units))


def test_the_start_is_at_the_budget(started: Started) -> None:
    dims, cost = started.registry.dims, ParameterCost()
    plan = plan_for(started.dense.model, started.registry.kept_layers())
    left = CONFIG.budget * dense_cost(dims, cost) - plan_cost(plan, cost)
    assert 0 <= left < 8 * cost.neuron_cost(dims.layers[0])
    density = float(started.registry.kept_density().detach())
    assert density == pytest.approx(plan_cost(plan, cost) / dense_cost(dims, cost))


def test_what_is_shut_has_its_dense_weights_and_what_is_open_has_not(started: Started) -> None:
    repaired = 0
    for sub_block, site in started.task.sites.items():
        kept = is_kept(started, sub_block)
        weight, dense = site.output_weight(), started.dense.sites[sub_block].output_weight()
        shut = site.channels((~kept).nonzero().flatten())
        assert torch.equal(weight[:, shut], dense[:, shut]), sub_block
        open_ = site.channels(kept.nonzero().flatten())
        repaired += not torch.equal(weight[:, open_], dense[:, open_])
    assert repaired
    outputs = {id(p) for site in started.task.sites.values() for p in site.output.parameters()}
    dense_state = started.dense.model.state_dict()
    for name, parameter in started.task.model.named_parameters():
        if name in dense_state and id(parameter) not in outputs:
            assert torch.equal(parameter, dense_state[name]), name


def test_survival_is_the_least_budget_that_keeps_a_unit(started: Started) -> None:
    name = started.task.model.config.model_type
    for share in (0.3, 0.7):
        other = replace(started, start=find_start(make_task(name), share))
        for sub_block, survival in started.start.survival.items():
            kept = is_kept(other, sub_block)
            assert float(survival[kept].max() if kept.any() else 0) <= share + 1e-6
            assert kept[torch.isclose(survival, torch.tensor(share))].all()


def test_logits_follow_survival(started: Started) -> None:
    logits, survival, kept = [], [], []
    for sub_block, gates in started.registry.sub_block_gates():
        logits.append(gates.units.logit.detach())
        survival.append(started.start.survival[sub_block])
        kept.append(is_kept(started, sub_block))
    logit, least, open_ = (torch.cat(parts) for parts in (logits, survival, kept))
    assert torch.equal(logit > 0, open_)
    assert len(least.unique()) > 4
    for side in (open_, ~open_):
        order = logit[side].argsort()
        assert (least[side][order].diff() <= 0).all(), "what survives less would be kept longer"
    # The budget lies at 0: the dearest of the shut is there, the whole cost spans the spread.
    assert float(logit[~open_].max()) == 0
    prices = torch.cat(
        [
            torch.full_like(gates.units.logit, float(price_by_removal(started, sub_block)))
            for sub_block, gates in started.registry.sub_block_gates()
        ]
    )
    steps = logit[logit.argsort()].diff() / started.registry.spread
    expected = prices[logit.argsort()][1:] / prices.sum()
    torch.testing.assert_close(steps, expected, rtol=1e-3, atol=1e-6)


def price_by_removal(started: Started, sub_block: SubBlock) -> int:
    """What the numbers of one unit are: its rows of the inputs' maps, its columns of the output."""
    dims = started.registry.dims.layers[sub_block.layer]
    whole = plan_for(started.dense.model, plan_of_all(started))
    layer = whole.layers[sub_block.layer]
    size = dims.heads_per_group
    less = {
        "mlp": lambda: replace(layer, kept_neurons=layer.kept_neurons[1:]),
        "attention": lambda: replace(layer, kept_heads=layer.kept_heads[size:]),
        "cross_attention": lambda: replace(layer, kept_cross_heads=layer.kept_cross_heads[size:]),
    }[sub_block.part]()
    layers = [*whole.layers]
    layers[sub_block.layer] = less
    cost = ParameterCost()
    return plan_cost(whole, cost) - plan_cost(replace(whole, layers=tuple(layers)), cost)


def plan_of_all(started: Started):
    return read_model(started.dense.model).current.layers


def test_a_model_in_training_starts_the_same() -> None:
    """Dropout would make another start of it, and the mode is the Trainer's to choose."""
    found = []
    for training in (False, True):
        task = make_task("bert")
        dropouts = [m for m in task.model.modules() if isinstance(m, nn.Dropout)]
        assert any(m.p > 0 for m in dropouts)
        task.model.train(training)
        registry = attach_gates(task.model, CONFIG, batches=task.batches).registry
        assert task.model.training == registry.training == training
        found.append(task.model.state_dict())
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_without_batches_it_is_refused_unless_it_resumes() -> None:
    task = make_task("bert")
    before = copy.deepcopy(task.model.state_dict())
    with pytest.raises(NirvanaError, match=r"at_budget starts from scores.*batches.*got none"):
        attach_gates(task.model, CONFIG)
    assert set(task.model.state_dict()) == set(before), "it has gates"
    registry = attach_gates(task.model, CONFIG, resumes=True).registry
    assert float(registry.kept_density().detach()) == pytest.approx(1)
    assert all(torch.equal(task.model.state_dict()[name], t) for name, t in before.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warm_start": None}, "at_budget starts from scores: set warm_start.*got None and 512"),
        ({"warm_start_rows": 0}, "at_budget starts from scores.*got 'obs' and 0"),
        ({"gate_kind": HardConcrete()}, "expected straight-through gates, got HardConcrete"),
        ({"units": GateUnits(heads=False)}, r"gates for both, got GateUnits\(heads=False"),
        ({"units": GateUnits(neurons=False)}, "gates for both, got .*neurons=False"),
    ],
)
def test_what_cannot_start_at_the_budget_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        replace(CONFIG, **changes)


def test_a_budget_out_of_reach_leaves_the_model_as_it_was() -> None:
    task = make_task("bert")
    config = replace(CONFIG, budget=0.01, constraints=Constraints(may_drop=False))
    before = copy.deepcopy(task.model.state_dict())
    with pytest.raises(NirvanaError, match="cannot be reached"):
        attach_gates(task.model, config, batches=task.batches)
    assert set(task.model.state_dict()) == set(before)
    assert all(torch.equal(task.model.state_dict()[name], t) for name, t in before.items())
