"""Solves the multiple-choice knapsack exactly: one level of each item, least damage, within a cost.

Items are taken one after the other. A state is what the items so far cost and damage. It is left
out when another state is at least as good in both, or when not even the best that can follow would
beat the best solution known. What can follow is bounded by the lower convex hull of the items to
come (the linear relaxation); the hull's corners are solutions too, and give the best one known.
After D. Pisinger, "A minimal algorithm for the multiple-choice knapsack problem" (1995).

    item A: costs 0, 4, 10, damages 9, 3, 0      item B: costs 0, 6, damages 5, 0      capacity 10

    states (cost, damage) after A:   (0, 9)   (4, 3)   (10, 0)
    after B, both levels of each:    (0, 14)  (6, 9)   (4, 8)   (10, 3)  (10, 5)  (16, 0)
                                              beaten            best     beaten   too dear
                                              by (4, 8)                  by (10, 3)

The answer is level 1 of both. With many items most states go before that, by a bound: what a state
has cost, and for the items to come their lower convex hull. Between its corners the hull mixes two
levels, which no choice can, so that no choice has less damage:

    damage |*
           | .   o          * the levels on the hull (of item A: all three)
           |   .            o a level above it
           |     *
           |         .
           |             *
           +---------------- cost

State (0, 9) can end at 9 at best, B having no damage at level 1. State (4, 3) with that level ends
at 3: a solution, so that (0, 9) is not followed any further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pruning.errors import NirvanaError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_STATES = 200_000
_CHUNK = 2_000_000  # sums that are held at a time


def solve(
    damages: Sequence[Sequence[float]],
    costs: Sequence[Sequence[int]],
    capacity: int,
    max_states: int = MAX_STATES,
) -> tuple[int, ...]:
    """Return one level index an item: the least sum of damages with a cost sum within `capacity`.

    Exact for any whole-number costs while at most `max_states` states are left after an item.
    Beyond, only the best state of each of `max_states` cells of equal width in cost is kept. The
    capacity is never exceeded then either, and the damage is at most the least possible for a
    capacity that is smaller by `len(costs) * capacity / max_states`.

    Args:
        damages: of each item's levels.
        costs: of the same levels, in any order.

    Raises:
        NirvanaError: the shapes differ, a damage is not finite, or the cheapest levels together
            exceed the capacity.
    """
    _check(damages, costs)
    items = [_read_item(d, c) for d, c in zip(damages, costs, strict=True)]
    least = sum(int(item.costs[0]) for item in items)
    if least > capacity:
        raise NirvanaError(
            f"Expected a capacity of at least {least}, the sum of the cheapest levels, got "
            f"{capacity}. Raise the budget."
        )
    chosen = _Search(items, capacity, max_states).run()
    return tuple(int(item.levels[level]) for item, level in zip(items, chosen, strict=True))


@dataclass(frozen=True, slots=True)
class _Item:
    """The levels that no other level beats: costs ascend, damages fall."""

    levels: Ints
    costs: Ints
    damages: Floats


@dataclass(frozen=True, slots=True)
class _Hull:
    """The best of several items together, as far as the corners of their hulls go.

    Attributes:
        costs: of the corners, ascending; the first has all items at their cheapest.
        damages: of the corners.
        owners: corner k + 1 comes of corner k by raising item `owners[k]` ...
        levels: ... to its level `levels[k]`.
    """

    costs: Ints
    damages: Floats
    owners: Ints
    levels: Ints


@dataclass(frozen=True, slots=True)
class _States:
    """What the items so far cost and damage; of which state before and which level each came."""

    costs: Ints
    damages: Floats
    parents: npt.NDArray[np.int32]
    levels: npt.NDArray[np.int16]

    def take(self, chosen: npt.NDArray[np.intp]) -> _States:
        return _States(
            self.costs[chosen], self.damages[chosen], self.parents[chosen], self.levels[chosen]
        )


class _Search:
    """The states so far, how they came about, and the best solution known."""

    def __init__(self, items: Sequence[_Item], capacity: int, max_states: int) -> None:
        self._items = items
        self._capacity = capacity
        self._max_states = max_states
        self._hulls = _merge_suffixes(items)
        self._trail: list[_States] = []
        self._best_damage = np.inf
        self._best = [0] * len(items)

    def run(self) -> list[int]:
        """Return the level of each item, as a position among those that no other beats."""
        states = _States(
            np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int32), np.zeros(1, np.int16)
        )
        self._improve(states, 0)
        for number, item in enumerate(self._items):
            if not len(states.costs):
                break  # nothing can beat the best any more
            states = _drop_beaten(self._extend(states, item, number))
            self._trail.append(states)
            self._improve(states, number + 1)
            left = np.flatnonzero(self._bound(states, number + 1) < self._best_damage)
            states = self._thin(states.take(left))
            self._trail[-1] = states
        return self._best

    def _left(self, states: _States) -> Ints:
        return self._capacity - states.costs

    def _bound(self, states: _States, number: int) -> Floats:
        """Return the damage that no completion of a state falls below."""
        hull = self._hulls[number]
        return states.damages + np.interp(self._left(states), hull.costs, hull.damages)

    def _improve(self, states: _States, number: int) -> None:
        """Complete every state by the hull of the items to come; remember the best of all."""
        if not len(states.costs):
            return
        hull = self._hulls[number]
        corners = np.searchsorted(hull.costs, self._left(states), side="right") - 1
        completed = states.damages + hull.damages[corners]
        at = int(completed.argmin())
        if completed[at] < self._best_damage:
            self._best_damage = float(completed[at])
            self._best = self._read_levels(number, at, int(corners[at]))

    def _read_levels(self, number: int, state: int, corner: int) -> list[int]:
        hull, levels = self._hulls[number], [0] * len(self._items)
        for owner, level in zip(hull.owners[:corner], hull.levels[:corner], strict=True):
            levels[owner] = int(level)
        for before in range(number - 1, -1, -1):
            states = self._trail[before]
            levels[before], state = int(states.levels[state]), int(states.parents[state])
        return levels

    def _extend(self, states: _States, item: _Item, number: int) -> _States:
        """Return every state with every level of an item, as far as it can beat the best."""
        size = max(1, _CHUNK // len(item.costs))
        parts = []
        for start in range(0, len(states.costs), size):
            costs = states.costs[start : start + size, None] + item.costs
            damages = states.damages[start : start + size, None] + item.damages
            parents, levels = (axis.ravel() for axis in np.indices(costs.shape, dtype=np.int32))
            sums = _States(costs.ravel(), damages.ravel(), parents + start, levels.astype(np.int16))
            fits = self._left(sums) >= self._hulls[number + 1].costs[0]
            promises = self._bound(sums, number + 1) < self._best_damage
            parts.append(sums.take(np.flatnonzero(fits & promises)))
        return _join(parts)

    def _thin(self, states: _States) -> _States:
        """Return the states, or the best of each cell where they are too many."""
        if len(states.costs) <= self._max_states:
            return states
        span = int(states.costs[-1] - states.costs[0]) + 1
        cells = (states.costs - states.costs[0]).astype(np.float64) * (self._max_states / span)
        last = np.flatnonzero(np.diff(cells.astype(np.int64), append=-1))  # damages fall with cost
        return states.take(last)


def _check(damages: Sequence[Sequence[float]], costs: Sequence[Sequence[int]]) -> None:
    shapes = [[len(item) for item in table] for table in (damages, costs)]
    if shapes[0] != shapes[1] or 0 in shapes[0]:
        raise NirvanaError(
            f"Expected one damage for each cost and a level for each item, got {shapes[0]} damages "
            f"and {shapes[1]} costs."
        )
    for number, item in enumerate(damages):
        if not np.isfinite(item).all():
            raise NirvanaError(f"Item {number}: expected finite damages, got {list(item)}.")


def _read_item(damages: Sequence[float], costs: Sequence[int]) -> _Item:
    """Return the levels that no other beats."""
    all_costs, all_damages = np.asarray(costs, np.int64), np.asarray(damages, np.float64)
    order = np.lexsort((all_damages, all_costs))
    best = np.minimum.accumulate(all_damages[order])
    levels = order[np.diff(best, prepend=np.inf) < 0]
    return _Item(levels, all_costs[levels], all_damages[levels])


def _drop_beaten(states: _States) -> _States:
    """Return the states that no other beats, ascending in cost."""
    order = np.lexsort((states.damages, states.costs))
    best = np.minimum.accumulate(states.damages[order])
    return states.take(order[np.diff(best, prepend=np.inf) < 0])


def _join(parts: Sequence[_States]) -> _States:
    names = ("costs", "damages", "parents", "levels")
    return _States(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _merge_suffixes(items: Sequence[_Item]) -> list[_Hull]:
    """Return the hull of `items[number:]` for each number up to the count of items."""
    steps = [
        (_slope(item, before, level), number, before, level)
        for number, item in enumerate(items)
        for before, level in _list_steps(item)
    ]
    steps.sort(key=lambda step: step[0])
    owners = np.array([step[1] for step in steps], np.int64)
    levels = np.array([step[3] for step in steps], np.int64)
    costs = np.array([items[i].costs[k] - items[i].costs[j] for _, i, j, k in steps], np.int64)
    damages = np.array([items[i].damages[k] - items[i].damages[j] for _, i, j, k in steps])
    hulls = []
    for number in range(len(items) + 1):
        mine = owners >= number
        first_cost = sum(int(item.costs[0]) for item in items[number:])
        first_damage = sum(float(item.damages[0]) for item in items[number:])
        hulls.append(
            _Hull(
                np.concatenate([[first_cost], costs[mine]]).astype(np.int64).cumsum(),
                np.concatenate([[first_damage], damages[mine]]).cumsum(),
                owners[mine],
                levels[mine],
            )
        )
    return hulls


def _list_steps(item: _Item) -> list[tuple[int, int]]:
    """Return the edges of an item's lower convex hull, as levels."""
    corners = [0]
    for level in range(1, len(item.costs)):
        while len(corners) > 1 and (
            _slope(item, corners[-1], level) <= _slope(item, corners[-2], corners[-1])
        ):
            corners.pop()
        corners.append(level)
    return list(pairwise(corners))


def _slope(item: _Item, start: int, end: int) -> float:
    damage = float(item.damages[end] - item.damages[start])
    return damage / float(item.costs[end] - item.costs[start])
