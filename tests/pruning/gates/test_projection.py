import pytest
import torch

from pruning.allocation.constraints import Constraints, allowed_counts
from pruning.errors import NirvanaError
from pruning.gates.gate_kinds import GateUnits, HardConcrete
from pruning.gates.gate_registry import GateRegistry
from pruning.gates.projection import check_projectable, find_unit_cost, project
from pruning.plans.cost import MacCost, ParameterCost, dense_cost, group_cost, plan_cost
from pruning.plans.dense_dims import DenseDims, StackDims, UnitSizes
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.plans.sub_block import SubBlock
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


def make_registry(cost, seed: int = 0, dims: DenseDims = DIMS, **options) -> GateRegistry:
    registry = GateRegistry(dims, cost, **options)
    randomise(registry, seed)
    open_blocks(registry)
    return registry


def open_blocks(registry: GateRegistry) -> None:
    for part in ("mlp", "attention", "cross_attention"):
        registry.block_gates(part).logit.data.fill_(1.0)


def cost_of(layers: tuple[LayerPlan, ...], cost, dims: DenseDims = DIMS) -> int:
    return plan_cost(PruningPlan(dims=dims, layers=layers, config_hash=""), cost)


def cheapest_cut(layers: tuple[LayerPlan, ...], cost, dims: DenseDims, multiple: int) -> int:
    """The least that one more unit would have cost."""
    prices = []
    for layer, stack in zip(layers, dims.layers, strict=True):
        attentions = [layer.kept_heads]
        attentions += [layer.kept_cross_heads] if stack.cross_attention else []
        for heads in attentions:
            if not heads:
                prices.append(group_cost(stack, cost) + cost.attention_rest_cost(stack))
            elif len(heads) < stack.num_heads:
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
    limits = Constraints(neuron_multiple=multiple)
    layers = project(registry, budget, limits)
    left = budget * dense_cost(dims, cost) - cost_of(layers, cost, dims)
    assert left + 1e-6 >= 0
    if budget < 1:
        assert left < cheapest_cut(layers, cost, dims, multiple)
        assert left < find_unit_cost(dims, cost, limits, registry.units)
    else:
        assert layers == PruningPlan.dense(dims, "").layers
    for layer, stack in zip(layers, dims.layers, strict=True):
        assert layer.num_kept_neurons % multiple in (0, stack.intermediate_size % multiple)


LIMITS = {
    "groups": Constraints(neuron_multiple=8, min_groups=2),
    "neurons": Constraints(neuron_multiple=8, min_neurons=40),
    "nothing emptied": Constraints(neuron_multiple=8, may_drop=False),
    "two heads": Constraints(neuron_multiple=8, avoid_one_head=True, may_drop=False),
    "two devices": Constraints(neuron_multiple=8, tensor_parallel=2),
    "uniform": Constraints(neuron_multiple=8, uniform=True),
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("dims", [DIMS, GROUPED], ids=["plain", "grouped"])
def test_constraints_hold_as_in_one_shot_pruning(dims, limits: Constraints) -> None:
    cost = ParameterCost()
    registry = make_registry(cost, 0, dims)
    emptied = registry.attentions[1].gate_H.logit
    emptied.data -= 50.0
    registry.mlps[2].gate_N.logit.data -= 50.0
    registry.attention_block_gate.logit.data[3] = -1.0
    layers = project(registry, 0.6, limits)
    left = 0.6 * dense_cost(dims, cost) - cost_of(layers, cost, dims)
    assert 0 <= left < find_unit_cost(dims, cost, limits, registry.units)
    counts = []
    for number, layer in enumerate(layers):
        groups = len(layer.kept_heads or ()) // dims.layers[number].heads_per_group
        assert groups in allowed_counts(SubBlock(number, "attention"), dims, limits)
        assert layer.num_kept_neurons in allowed_counts(SubBlock(number, "mlp"), dims, limits)
        counts.append((groups, layer.num_kept_neurons))
    none_dropped = limits.uniform or not limits.may_drop
    assert (layers[3].kept_heads is not None) == none_dropped
    assert (len(set(counts)) == 1) == limits.uniform
    if not limits.may_drop:
        assert all(groups and neurons for groups, neurons in counts)
        least = (
            limits.min_groups
            if not limits.avoid_one_head
            else 2
            if dims.layers[0].heads_per_group == 1
            else 1
        )
        assert counts[1][0] == least, "the best of an emptied attention are spared"
        best = emptied.topk(least).indices.sort().values.tolist()
        size = dims.layers[1].heads_per_group
        assert layers[1].kept_heads == tuple(g * size + i for g in best for i in range(size))


@pytest.mark.parametrize("name", TINY)
def test_every_family_gets_a_plan_of_its_own(name: str) -> None:
    registry = GateRegistry.attach(make_tiny(name), ParameterCost())
    randomise(registry)
    open_blocks(registry)
    layers = project(registry, 0.7, Constraints(neuron_multiple=4))
    plan = PruningPlan(dims=registry.dims, layers=layers, config_hash="")  # checks itself
    left = 0.7 * dense_cost(plan.dims, ParameterCost()) - plan_cost(plan, ParameterCost())
    assert 0 <= left < cheapest_cut(layers, ParameterCost(), plan.dims, 4)
    registry.freeze(layers)
    assert registry.kept_layers() == layers


@SHAPES
def test_the_best_logits_of_all_layers_are_kept(dims: DenseDims) -> None:
    registry = make_registry(MacCost(128), 0, dims)
    layers = project(registry, 0.5, Constraints(neuron_multiple=1))
    kept, cut = [], []
    for layer, gates in zip(layers, registry.mlps, strict=True):
        mask = torch.zeros(gates.gate_N.logit.numel(), dtype=torch.bool)
        mask[list(layer.kept_neurons)] = True
        kept.append(gates.gate_N.logit.detach()[mask].min())
        cut.append(gates.gate_N.logit.detach()[~mask].max())
    # Neurons of the cheaper stack may fill what no other one fits into.
    tolerance = 0.05 if len(dims.stacks) > 1 else 0.0
    assert min(kept) > max(cut) - tolerance


@pytest.mark.parametrize(
    ("part", "name", "field"),
    [
        ("mlp", "mlp_block_gate", "kept_neurons"),
        ("attention", "attention_block_gate", "kept_heads"),
        ("cross_attention", "cross_attention_block_gate", "kept_cross_heads"),
    ],
)
def test_a_shut_block_is_dropped_and_its_budget_goes_elsewhere(part, name, field) -> None:
    cost = ParameterCost()
    registry = make_registry(cost, dims=PAIR)
    getattr(registry, name).logit.data[2] = -1.0
    number = 4 if part == "cross_attention" else 2  # the third of the decoder's
    layers = project(registry, 0.5, Constraints(neuron_multiple=1))
    assert getattr(layers[number], field) is None
    left = 0.5 * dense_cost(PAIR, cost) - cost_of(layers, cost, PAIR)
    assert 0 <= left < min(cost.neuron_cost(stack) for stack in PAIR.layers)
    registry.freeze(layers)
    assert registry.kept_layers() == layers


@COSTS
@pytest.mark.parametrize("budget", [0.7, 0.9])
def test_shut_blocks_are_reopened_when_there_is_room(cost, budget: float) -> None:
    registry = make_registry(cost)
    registry.mlp_block_gate.logit.data = torch.tensor([-4.0, -1.0, -3.0, -2.0])
    layers = project(registry, budget, Constraints(neuron_multiple=8))
    left = budget * dense_cost(DIMS, cost) - cost_of(layers, cost)
    assert left + 1e-6 >= 0
    assert left < 8 * cost.neuron_cost(DIMS.layers[0]) + cost.mlp_bias_cost(DIMS.layers[0])
    assert layers[1].kept_neurons is not None, "the least shut comes first"
    if budget < 0.8:
        assert layers[0].kept_neurons is None, "the most shut comes last"


@COSTS
def test_all_blocks_shut_still_meets_the_budget_with_two_stacks(cost) -> None:
    registry = make_registry(cost, 0, PAIR)
    registry.mlp_block_gate.logit.data = torch.tensor([-4.0, -1.0, -3.0, -2.0, -5.0])
    registry.attention_block_gate.logit.data = -torch.arange(1.0, 6.0)
    layers = project(registry, 0.8, Constraints(neuron_multiple=8))
    left = 0.8 * dense_cost(PAIR, cost) - cost_of(layers, cost, PAIR)
    assert 0 <= left < find_unit_cost(PAIR, cost, Constraints(neuron_multiple=8), GateUnits())


def test_gates_for_heads_and_whole_mlps_leave_neurons_together() -> None:
    cost = MacCost(128)
    units = GateUnits(neurons=False, attention_blocks=False)
    limits = Constraints()
    registry = make_registry(cost, units=units)
    registry.mlp_block_gate.logit.data = torch.tensor([1e-3, -1.0, 9.0, 8.0])
    layers = project(registry, 0.35, limits)
    assert [layer.num_kept_neurons for layer in layers] == [0, 0, 256, 256]
    assert all(layer.kept_heads is not None for layer in layers)
    left = 0.35 * dense_cost(DIMS, cost) - cost_of(layers, cost)
    assert 0 <= left < group_cost(DIMS.layers[0], cost)
    assert find_unit_cost(DIMS, cost, limits, units) == group_cost(DIMS.layers[0], cost)
    registry.freeze(layers)
    assert registry.kept_layers() == layers


def test_hard_concrete_gates_are_projected_alike() -> None:
    cost = ParameterCost()
    registry = make_registry(cost, kind=HardConcrete())
    layers = project(registry, 0.5, Constraints(neuron_multiple=8))
    left = 0.5 * dense_cost(DIMS, cost) - cost_of(layers, cost)
    assert 0 <= left < 8 * cost.neuron_cost(DIMS.layers[0])
    registry.freeze(layers)
    assert registry.kept_layers() == layers
    kept = cost_of(layers, cost) / dense_cost(DIMS, cost)
    assert float(registry.kept_density().detach()) == pytest.approx(kept, rel=1e-6)


FORCED = Constraints(neuron_multiple=8, may_drop=False)


@SHAPES
@COSTS
def test_the_least_that_is_named_can_be_reached(dims: DenseDims, cost) -> None:
    registry = make_registry(cost, 0, dims)
    with pytest.raises(NirvanaError, match=r"budget of 0.001 cannot be reached") as refused:
        project(registry, 0.001, FORCED)
    layers = project(registry, read_least(refused), FORCED)
    for layer, stack in zip(layers, dims.layers, strict=True):
        assert (len(layer.kept_heads), layer.num_kept_neurons) == (stack.heads_per_group, 8)


def test_what_has_no_gates_counts_as_kept() -> None:
    cost, units = MacCost(128), GateUnits(heads=False, attention_blocks=False)
    registry = make_registry(cost, units=units)
    with pytest.raises(NirvanaError, match=r"0.3 cannot be reached.*no gates.*heads=F") as refused:
        check_projectable(DIMS, cost, 0.3, Constraints(), units)
    layers = project(registry, read_least(refused), Constraints())
    assert [layer.num_kept_neurons for layer in layers] == [0, 0, 0, 0]
    assert all(len(layer.kept_heads) == 4 for layer in layers)


def read_least(refused: pytest.ExceptionInfo[NirvanaError]) -> float:
    return float(str(refused.value).split("leave at least ")[1].split(" ")[0])
