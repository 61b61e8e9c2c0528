import pytest
import torch

from pruning.errors import NirvanaError
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.projection import Limits, project
from pruning.plans.cost import MacCost, ParameterCost, dense_cost, group_cost, plan_cost
from pruning.plans.dense_dims import DenseDims, StackDims, UnitSizes
from pruning.plans.plan import LayerPlan, PruningPlan
from tests.pruning.gates.test_gate_registry import randomise
from tests.pruning.tiny_models import TINY, make_tiny

COSTS = pytest.mark.parametrize("cost", [ParameterCost(), MacCost(128)], ids=["parameters", "macs"])


def make_stack(
    name: str, num_layers: int, hidden: int, num_heads: int, num_kv_heads: int, neurons: int
) -> StackDims:
    width = 16
    return StackDims(
        name=name,
        num_layers=num_layers,
        hidden_size=hidden,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=width,
        intermediate_size=neurons,
        cross_attention=name == "decoder" and num_layers == 3,
        sizes=UnitSizes(
            query_head_weights=2 * hidden * width,
            query_head_biases=width,
            kv_head_weights=2 * hidden * width,
            kv_head_biases=2 * width,
            neuron_weights=2 * hidden,
            neuron_biases=1,
            attention_bias=hidden,
            attention_rest=2 * width,
            mlp_bias=hidden,
            norms=4 * hidden,
        ),
    )


def make_dims(*stacks: StackDims) -> DenseDims:
    return DenseDims(model_type="any", stacks=stacks)


DIMS = make_dims(make_stack("encoder", 4, 64, 4, 4, 256))
GROUPED = make_dims(make_stack("decoder", 4, 64, 8, 4, 256))
# Stacks of other sizes, so that no two units cost the same.
PAIR = make_dims(make_stack("encoder", 2, 48, 4, 4, 200), make_stack("decoder", 3, 64, 6, 3, 256))
SHAPES = pytest.mark.parametrize("dims", [DIMS, GROUPED, PAIR], ids=["plain", "grouped", "pair"])


def make_registry(cost, seed: int = 0, dims: DenseDims = DIMS) -> GateRegistry:
    registry = GateRegistry(dims, cost)
    randomise(registry, seed)
    registry.mlp_block_gate.data.fill_(1.0)
    return registry


def cost_of(layers: tuple[LayerPlan, ...], cost, dims: DenseDims = DIMS) -> int:
    return plan_cost(PruningPlan(dims=dims, layers=layers, config_hash=""), cost)


def cheapest_cut(layers: tuple[LayerPlan, ...], cost, dims: DenseDims, multiple: int) -> int:
    """The least that one more unit would have cost."""
    prices = []
    for layer, stack in zip(layers, dims.layers, strict=True):
        attentions = [layer.kept_heads]
        attentions += [layer.kept_cross_heads] if stack.cross_attention else []
        if any(len(heads) < stack.num_heads for heads in attentions):
            prices.append(group_cost(stack, cost))
        if layer.num_kept_neurons < stack.intermediate_size:
            prices.append(multiple * cost.neuron_cost(stack))
    return min(prices)


@SHAPES
@COSTS
@pytest.mark.parametrize("multiple", [1, 8, 64])
@pytest.mark.parametrize("budget", [0.35, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_budget_is_met_within_one_unit(dims, cost, multiple, budget, seed) -> None:
    registry = make_registry(cost, seed, dims)
    layers = project(registry, budget, Limits(neuron_multiple=multiple))
    left = budget * dense_cost(dims, cost) - cost_of(layers, cost, dims)
    assert left + 1e-6 >= 0
    if budget < 1:
        assert left < cheapest_cut(layers, cost, dims, multiple)
    else:
        assert layers == PruningPlan.dense(dims, "").layers
    for layer, stack in zip(layers, dims.layers, strict=True):
        assert layer.num_kept_neurons % multiple in (0, stack.intermediate_size % multiple)
        assert layer.num_kept_neurons >= min(multiple, stack.intermediate_size)


@SHAPES
@pytest.mark.parametrize("min_groups", [1, 2])
def test_kv_groups_stay_whole_and_are_never_fewer_than_asked(dims, min_groups: int) -> None:
    registry = make_registry(MacCost(128), 0, dims)
    *_, emptied = registry.head_gates()
    emptied.gate_H.data -= 50.0
    layers = project(registry, 0.7, Limits(min_groups=min_groups))
    counts = []
    for layer, stack in zip(layers, dims.layers, strict=True):
        for heads in (layer.kept_heads, layer.kept_cross_heads)[: 1 + stack.cross_attention]:
            groups = [head // stack.heads_per_group for head in heads]
            assert all(groups.count(group) == stack.heads_per_group for group in groups)
            counts.append(len(set(groups)))
    assert min(counts) == counts[-1] == min_groups


@pytest.mark.parametrize("name", TINY)
def test_every_family_gets_a_plan_of_its_own(name: str) -> None:
    registry = GateRegistry.attach(make_tiny(name), ParameterCost())
    randomise(registry)
    registry.mlp_block_gate.data.fill_(1.0)
    layers = project(registry, 0.7, Limits(neuron_multiple=4))
    plan = PruningPlan(dims=registry.dims, layers=layers, config_hash="")  # checks itself
    left = 0.7 * dense_cost(plan.dims, ParameterCost()) - plan_cost(plan, ParameterCost())
    assert 0 <= left < cheapest_cut(layers, ParameterCost(), plan.dims, 4)
    registry.freeze(layers)
    assert registry.kept_layers() == layers


@SHAPES
def test_the_best_logits_of_all_layers_are_kept(dims: DenseDims) -> None:
    registry = make_registry(MacCost(128), 0, dims)
    layers = project(registry, 0.5, Limits(neuron_multiple=1))
    kept, cut = [], []
    for layer, gates in zip(layers, registry.mlp_gates(), strict=True):
        mask = torch.zeros(gates.gate_N.numel(), dtype=torch.bool)
        mask[list(layer.kept_neurons)] = True
        kept.append(gates.gate_N.detach()[mask].min())
        cut.append(gates.gate_N.detach()[~mask].max())
    # Neurons of the cheaper stack may fill what no other one fits into.
    tolerance = 0.05 if len(dims.stacks) > 1 else 0.0
    assert min(kept) > max(cut) - tolerance


@pytest.mark.parametrize("part", ["heads", "cross_heads"])
def test_an_emptied_attention_keeps_its_best_group(part: str) -> None:
    registry = make_registry(MacCost(128), 0, PAIR)
    last = list(registry.layer_gates())[-1]
    getattr(last, part).gate_H.data = torch.tensor([-50.0, -40.0, -60.0])
    layers = project(registry, 0.5, Limits())
    assert getattr(layers[-1], f"kept_{part}") == (2, 3)


def test_a_shut_block_is_dropped_and_its_budget_goes_elsewhere() -> None:
    registry = make_registry(ParameterCost())
    registry.mlp_block_gate.data[2] = -1.0
    layers = project(registry, 0.5, Limits(neuron_multiple=1))
    assert layers[2].kept_neurons is None
    left = 0.5 * dense_cost(DIMS, ParameterCost()) - cost_of(layers, ParameterCost())
    assert 0 <= left < ParameterCost().neuron_cost(DIMS.layers[0])


@COSTS
@pytest.mark.parametrize("budget", [0.7, 0.9])
def test_shut_blocks_are_reopened_when_there_is_room(cost, budget: float) -> None:
    registry = make_registry(cost)
    registry.mlp_block_gate.data = torch.tensor([-4.0, -1.0, -3.0, -2.0])
    layers = project(registry, budget, Limits(neuron_multiple=8))
    left = budget * dense_cost(DIMS, cost) - cost_of(layers, cost)
    assert left + 1e-6 >= 0
    assert left < 8 * cost.neuron_cost(DIMS.layers[0]) + cost.mlp_bias_cost(DIMS.layers[0])
    assert layers[1].kept_neurons is not None, "the least shut comes first"
    if budget < 0.8:
        assert layers[0].kept_neurons is None, "the most shut comes last"


@COSTS
def test_all_blocks_shut_still_meets_the_budget_with_two_stacks(cost) -> None:
    registry = make_registry(cost, 0, PAIR)
    registry.mlp_block_gate.data = torch.tensor([-4.0, -1.0, -3.0, -2.0, -5.0])
    layers = project(registry, 0.8, Limits(neuron_multiple=8))
    left = 0.8 * dense_cost(PAIR, cost) - cost_of(layers, cost, PAIR)
    assert (
        0
        <= left
        < max(8 * cost.neuron_cost(stack) + cost.mlp_bias_cost(stack) for stack in PAIR.stacks)
    )


def test_an_impossible_budget_names_the_least() -> None:
    registry = make_registry(MacCost(128))
    with pytest.raises(NirvanaError, match=r"budget of 0.01 cannot be reached.*which is 0\.\d{4}"):
        project(registry, 0.01, Limits())


@SHAPES
@COSTS
def test_the_least_that_is_named_can_be_reached(dims: DenseDims, cost) -> None:
    registry = make_registry(cost, 0, dims)
    with pytest.raises(NirvanaError) as refused:
        project(registry, 0.001, Limits())
    least = float(str(refused.value).split("which is ")[1].split(" ")[0])
    layers = project(registry, least + 1e-4, Limits())
    for layer, stack in zip(layers, dims.layers, strict=True):
        assert (len(layer.kept_heads), layer.num_kept_neurons) == (stack.heads_per_group, 8)


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(NirvanaError, match="min_groups must be above 0, got 0"):
        Limits(min_groups=0)
