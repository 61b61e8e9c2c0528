"""Dimensions, scores, curves and prices that are small enough to try everything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.allocation.levels import DamageCurve
from pruning.plans.cost import MacCost, ParameterCost, plan_cost
from pruning.plans.dense_dims import DenseDims, StackDims, UnitSizes
from pruning.plans.plan import LayerPlan, PruningPlan
from pruning.plans.sub_block import SubBlock, count_units, list_sub_blocks


def make_stack(
    name: str, num_layers: int, num_heads: int, num_kv_heads: int, neurons: int, hidden: int = 16
) -> StackDims:
    return StackDims(
        name=name,
        num_layers=num_layers,
        hidden_size=hidden,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=8,
        intermediate_size=neurons,
        cross_attention=name == "decoder",
        sizes=UnitSizes(
            query_head_weights=2 * hidden * 8,
            query_head_biases=8,
            kv_head_weights=2 * hidden * 8,
            kv_head_biases=0,
            neuron_weights=3 * hidden,
            neuron_biases=1,
            attention_bias=hidden,
            attention_rest=16,
            mlp_bias=hidden,
            norms=2 * hidden,
            first_block_lacks=hidden,
        ),
    )


PLAIN = DenseDims(model_type="any", stacks=(make_stack("layers", 3, 4, 4, 48),))
GROUPED = DenseDims(model_type="any", stacks=(make_stack("layers", 3, 8, 4, 50),))
PAIR = DenseDims(
    model_type="any",
    stacks=(make_stack("encoder", 2, 4, 4, 40), make_stack("decoder", 2, 6, 3, 48, 24)),
)
SHAPES = {"plain": PLAIN, "grouped": GROUPED, "pair": PAIR}


@dataclass(frozen=True, slots=True)
class TableCost:
    """Like measured latencies: steps, plateaus, even a count that is slower than a larger one."""

    name: str = "nanoseconds"

    def attention_cost(self, dims: StackDims, num_heads: int, num_kv_heads: int) -> int:
        table = [7, 990, 900, 1400, 1401, 1800, 2500, 2500, 2600]
        return table[num_heads] + 31 * num_kv_heads + dims.hidden_size

    def mlp_cost(self, dims: StackDims, num_neurons: int) -> int:
        return 11 + 257 * -(-num_neurons // 12) + (num_neurons % 7)

    def block_cost(self, dims: StackDims) -> int:
        return 101


PRICES = {"parameters": ParameterCost(), "macs": MacCost(32), "table": TableCost()}


def draw_scores(dims: DenseDims, seed: int = 0) -> dict[SubBlock, list[float]]:
    rng = np.random.default_rng(seed)
    return {s: rng.lognormal(size=count_units(s, dims)).tolist() for s in list_sub_blocks(dims)}


def draw_curves(dims: DenseDims, seed: int = 0) -> dict[SubBlock, DamageCurve]:
    """Curves at some counts, not all of them falling."""
    rng = np.random.default_rng(seed)
    curves = {}
    for sub_block in list_sub_blocks(dims):
        units = count_units(sub_block, dims)
        counts = sorted({0, units, *rng.integers(0, units, size=3).tolist()})
        damage = [rng.uniform(0.1, 1) * (1 - c / units) ** 2 for c in counts[:-1]]
        curves[sub_block] = DamageCurve(tuple(counts), (*damage, 0.0))
    return curves


def cost_of(layers: tuple[LayerPlan, ...], dims: DenseDims, cost) -> int:
    return plan_cost(PruningPlan(dims=dims, layers=layers, config_hash=""), cost)
