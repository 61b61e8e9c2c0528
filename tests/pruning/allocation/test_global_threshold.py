import numpy as np
import pytest

from pruning.allocation.constraints import Constraints
from pruning.allocation.threshold_allocations import allocate_by_threshold
from pruning.plans.cost import MacCost, ParameterCost, group_cost
from pruning.plans.dense_dims import DenseDims
from pruning.plans.sub_block import count_units, kept_units, list_sub_blocks
from tests.pruning.allocation.small_dims import PAIR, draw_scores, make_stack

ONES = Constraints(neuron_multiple=1)
WIDE = DenseDims(model_type="any", stacks=(make_stack("layers", 4, 64, 32, 400),))


def split(dims, layers, scores) -> dict[bool, tuple[list[float], list[float]]]:
    """The scores that are kept and cut, of attentions (False) and MLPs (True)."""
    found: dict[bool, tuple[list[float], list[float]]] = {False: ([], []), True: ([], [])}
    for sub_block in list_sub_blocks(dims):
        layer, stack = layers[sub_block.layer], dims.layers[sub_block.layer]
        kept = set(kept_units(layer, sub_block.part, stack) or ())
        for unit, score in enumerate(scores[sub_block]):
            found[sub_block.part == "mlp"][unit not in kept].append(score)
    return found


@pytest.mark.parametrize("gamma", ["auto", 0.5, 1.0, 3.0])
@pytest.mark.parametrize("budget", [0.55, 0.7, 0.85])
def test_the_shares_are_those_of_the_paper(gamma, budget: float) -> None:
    """Without rounding: s_A and s_M by the formula, each a threshold over all layers."""
    cost, scores = MacCost(8), draw_scores(WIDE)  # without biases and norms s is 1 - budget
    (stack,) = WIDE.stacks
    layers = allocate_by_threshold(WIDE, scores, cost, budget, ONES, gamma)
    attention = stack.num_kv_heads * group_cost(stack, cost)
    mlp = stack.intermediate_size * cost.neuron_cost(stack)
    ratio = mlp / attention if gamma == "auto" else gamma
    share = (1 - budget) * (attention + mlp) / (attention + ratio * mlp)
    for is_mlp, (kept, cut) in split(WIDE, layers, scores).items():
        expected = ratio * share if is_mlp else share
        num_units = len(kept) + len(cut)
        step = group_cost(stack, cost) / cost.neuron_cost(stack) if is_mlp else 1
        assert len(cut) == pytest.approx(expected * num_units, abs=step + 1)
        assert max(cut) < min(kept)


@pytest.mark.parametrize("budget", [0.4, 0.6, 0.8])
def test_one_threshold_goes_by_score_per_cost(budget: float) -> None:
    """Across kinds and stacks, but for the last units, which go by what fits."""
    cost, scores = ParameterCost(), draw_scores(PAIR)
    layers = allocate_by_threshold(PAIR, scores, cost, budget, ONES, None)
    kept, cut = [], []
    for sub_block in list_sub_blocks(PAIR):
        stack, part = PAIR.layers[sub_block.layer], sub_block.part
        rest = cost.attention_rest_cost(stack) / stack.num_kv_heads
        price = cost.neuron_cost(stack) if part == "mlp" else group_cost(stack, cost) + rest
        units = kept_units(layers[sub_block.layer], part, stack) or ()
        for unit in range(count_units(sub_block, PAIR)):
            (kept if unit in units else cut).append(scores[sub_block][unit] / price)
    assert cut
    first_cut = max(cut)
    above = np.array(kept) > first_cut
    assert above.mean() > 0.9  # what is kept below a unit that is cut only fills the budget up
    assert (np.array(cut) > np.quantile(kept, 0.1)).mean() < 0.05


def test_the_best_unit_of_an_emptied_layer_is_spared() -> None:
    scores = draw_scores(WIDE)
    worst = {s: [v * (1e-6 if s.layer == 2 else 1) for v in scores[s]] for s in scores}
    cost = ParameterCost()
    spared = Constraints(neuron_multiple=8, may_drop=False)
    layer = allocate_by_threshold(WIDE, worst, cost, 0.5, spared)[2]
    stack = WIDE.stacks[0]
    for sub_block in list_sub_blocks(WIDE):
        if sub_block.layer == 2:
            units = kept_units(layer, sub_block.part, stack) or ()
            best = np.argsort(worst[sub_block])[::-1][: 8 if sub_block.part == "mlp" else 1]
            assert sorted(best.tolist()) == list(units)
    emptied = allocate_by_threshold(WIDE, worst, cost, 0.5, Constraints(neuron_multiple=8))[2]
    assert emptied.kept_heads == emptied.kept_neurons == ()


def test_widths_are_rounded_up() -> None:
    """A layer with one neuron above the threshold keeps a whole multiple."""
    scores = draw_scores(WIDE)
    for sub_block in scores:
        if sub_block.part == "mlp" and sub_block.layer == 1:
            scores[sub_block] = [1e-6 * v for v in scores[sub_block]]
            scores[sub_block][17] = 1e6
    layers = allocate_by_threshold(
        WIDE, scores, ParameterCost(), 0.5, Constraints(neuron_multiple=64)
    )
    assert layers[1].num_kept_neurons == 64
    assert 17 in (layers[1].kept_neurons or ())
