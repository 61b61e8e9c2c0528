import itertools

import numpy as np
import pytest

from pruning.allocation.knapsack import solve
from pruning.errors import NirvanaError

Table = list[list]


def test_the_worked_example_is_solved_as_it_says() -> None:
    assert solve([[9, 3, 0], [5, 0]], [[0, 4, 10], [0, 6]], 10) == (1, 1)


def draw(seed: int, num_items: int, num_levels: int) -> tuple[Table, Table]:
    """Tables of several kinds: with ties, falling, proportional to the cost, in any order."""
    rng = np.random.default_rng(seed)
    damages, costs = [], []
    for _ in range(num_items):
        levels = int(rng.integers(1, num_levels + 1))
        price = rng.integers(0, 40, size=levels)
        kind = seed % 4
        if kind == 0:  # anything
            damage = rng.normal(size=levels)
        elif kind == 1:  # many ties
            damage = rng.integers(0, 4, size=levels).astype(float)
        elif kind == 2:  # as good as its cost: a sum of subsets
            damage = -price.astype(float)
        else:  # falling curves
            price = np.sort(price)
            damage = rng.uniform(0.1, 1) * np.exp(-price / 10) * rng.lognormal(0, 0.2, levels)
        damages.append(damage.tolist())
        costs.append(price.tolist())
    return damages, costs


def total(table: Table, levels: tuple[int, ...]) -> float:
    return sum(row[level] for row, level in zip(table, levels, strict=True))


def try_all(damages: Table, costs: Table, capacity: int) -> float:
    every = itertools.product(*(range(len(row)) for row in costs))
    return min(total(damages, levels) for levels in every if total(costs, levels) <= capacity)


def fill_table(damages: Table, costs: Table, capacity: int) -> float:
    """The textbook recursion: the best for every capacity, item by item."""
    best = np.zeros(capacity + 1)
    for damage, price in zip(damages, costs, strict=True):
        following = np.full(capacity + 1, np.inf)
        for d, c in zip(damage, price, strict=True):
            if c <= capacity:
                following[c:] = np.minimum(following[c:], best[: capacity + 1 - c] + d)
        best = following
    return float(best[-1])


def draw_capacity(costs: Table, seed: int) -> int:
    ends = sum(min(row) for row in costs), sum(max(row) for row in costs)
    return int(np.random.default_rng(seed).integers(ends[0], ends[1] + 1))


@pytest.mark.parametrize("seed", range(200))
def test_no_choice_is_better(seed: int) -> None:
    damages, costs = draw(seed, num_items=1 + seed % 5, num_levels=6)
    capacity = draw_capacity(costs, seed)
    levels = solve(damages, costs, capacity)
    assert total(costs, levels) <= capacity
    assert total(damages, levels) == pytest.approx(try_all(damages, costs, capacity), abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_many_items_are_solved_exactly(seed: int) -> None:
    damages, costs = draw(seed, num_items=40, num_levels=30)
    capacity = draw_capacity(costs, seed)
    levels = solve(damages, costs, capacity)
    assert total(costs, levels) <= capacity
    assert total(damages, levels) == pytest.approx(fill_table(damages, costs, capacity), abs=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_with_few_states_the_capacity_still_holds(seed: int) -> None:
    """Then the result is not worse than the best for a little less capacity."""
    damages, costs = draw(seed, num_items=12, num_levels=12)
    capacity, max_states = draw_capacity(costs, seed), 24
    levels = solve(damages, costs, capacity, max_states)
    assert total(costs, levels) <= capacity
    less = capacity - -(-len(costs) * capacity // max_states)
    if less >= sum(min(row) for row in costs):
        assert total(damages, levels) <= fill_table(damages, costs, less) + 1e-9


def test_large_costs_are_not_rounded() -> None:
    """One more than fits, at a billion: the level below has to do."""
    big = 10**12 + 1
    assert solve([[1.0, 0.5, 0.0]], [[0, big - 1, big]], big - 1) == (1,)
    assert solve([[1.0, 0.5, 0.0]], [[0, big - 1, big]], big) == (2,)


def test_a_capacity_below_the_least_is_told_it() -> None:
    with pytest.raises(NirvanaError, match=r"at least 7, the sum of the cheapest levels, got 6"):
        solve([[1.0, 0.0], [1.0]], [[3, 9], [4]], 6)


@pytest.mark.parametrize("costs", [[[1, 2], [1]], [[1, 2, 3]], [[1]]])
def test_damages_and_costs_of_other_shapes_are_refused(costs) -> None:
    with pytest.raises(NirvanaError, match=r"got \[2\] damages and"):
        solve([[1.0, 0.0]], costs, 6)


def test_an_item_without_levels_is_refused() -> None:
    with pytest.raises(NirvanaError, match="a level for each item"):
        solve([[]], [[]], 6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_damages_are_finite(wrong: float) -> None:
    with pytest.raises(NirvanaError, match="Item 1: expected finite damages"):
        solve([[1.0], [wrong, 0.0]], [[1], [1, 2]], 6)
