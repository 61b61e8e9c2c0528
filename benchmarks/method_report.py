"""What the cells of the comparison say: the bars, and tables for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from figures import make_bar

Cell = dict[str, Any]
Increases = dict[str, dict[int, float]]  # of the loss, by method and seed
OURS, GATES, COFI = "ours", "gates", "cofi-hard-concrete"
_ONE_SHOT_BAR = 0.7


def make_bars(cells: Sequence[Cell], budget: float) -> list[dict[str, Any]]:
    """Hold the means over seeds at a budget against what they must reach.

    Two methods are compared over the seeds that both were measured with.

    A bar whose cells were not all measured is left out; the result lists what is missing.
    """
    bars = []
    for model in _list_values(cells, "model"):
        mine = [c for c in cells if c["model"] == model and c["budget"] == budget]
        bars += _make_one_shot_bar(model, budget, _collect(mine, 0))
        for steps in _list_values([c for c in mine if c["steps"]], "steps"):
            bars += _make_trained_bars(model, budget, steps, _collect(mine, steps))
    return bars


def _make_one_shot_bar(model: str, budget: float, found: Increases) -> list[dict[str, Any]]:
    peers = [method for method in found if method != OURS]
    if OURS not in found or not peers:
        return []
    best = min(peers, key=lambda method: statistics.mean(found[method].values()))
    ours, theirs = _average_both(found, OURS, best)
    name = f"{model}: loss increase at {budget}, ours over that of the best peer ({best})"
    return [make_bar(name, ours / theirs, _ONE_SHOT_BAR, "at_most")]


def _make_trained_bars(
    model: str, budget: float, steps: int, found: Increases
) -> list[dict[str, Any]]:
    """Compare losses: gates with one-shot, and both with CoFi's and Torch-Pruning's."""

    def mean(method: str) -> float:
        return statistics.mean(found[method].values())

    one_shot = [method for method in found if method not in (GATES, COFI)]
    package = [method for method in one_shot if method.startswith("torch-pruning")]
    others = [method for method in one_shot if method not in package]
    if not others:
        return []
    best = min(others, key=mean)
    pairs = [(GATES, best), (GATES, COFI), (best, COFI)]
    if package:
        rival = min(package, key=mean)
        pairs += [(GATES, rival), (best, rival)]
    bars = []
    for left, right in pairs:
        if left in found and right in found:
            mine, theirs = _average_both(found, left, right)
            name = f"{model}: loss at {budget} after {steps} steps, {left} minus {right}"
            bars.append(make_bar(name, mine - theirs, 0.0, "at_most"))
    return bars


def _collect(cells: Iterable[Cell], steps: int) -> Increases:
    """Return the loss increase of each method that did not fail, by seed."""
    found: Increases = {}
    for cell in cells:
        if cell["steps"] == steps and "loss_increase" in cell:
            found.setdefault(cell["method"], {})[cell["seed"]] = cell["loss_increase"]
    return found


def _average_both(found: Increases, left: str, right: str) -> tuple[float, float]:
    """Return the means of two methods over the seeds that both were measured with."""
    seeds = found[left].keys() & found[right].keys()
    assert seeds, f"{left} and {right} have no seed in common"
    return tuple(statistics.mean(found[m][seed] for seed in seeds) for m in (left, right))


def _list_values(cells: Iterable[Cell], name: str) -> list[Any]:
    return list(dict.fromkeys(cell[name] for cell in cells))


def print_tables(result: dict[str, Any]) -> None:
    """Print a markdown table for each model and number of steps, then the bars."""
    cells = result["cells"]
    for model in _list_values(cells, "model"):
        for steps in _list_values(cells, "steps"):
            chosen = [c for c in cells if c["model"] == model and c["steps"] == steps]
            if chosen:
                print(f"\n{model}, {f'{steps} steps' if steps else 'one-shot'}: loss increase over")
                print(f"the dense {result['dense'][model]['loss']:.3f}, mean ± spread (seeds)\n")
                print("\n".join(_make_table(chosen)))
    print(f"\n{len(result['not_measured'])} cells were not measured.")
    for bar in result["bars"]:
        print(f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {bar['value']:.4g}")


def _make_table(cells: Sequence[Cell]) -> list[str]:
    budgets = sorted(_list_values(cells, "budget"), reverse=True)
    lines = [
        "| method | " + " | ".join(f"{budget:.0%} kept" for budget in budgets) + " |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for method in _list_values(cells, "method"):
        shown = []
        for budget in budgets:
            mine = [c for c in cells if c["method"] == method and c["budget"] == budget]
            shown.append(_describe(mine))
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return lines


def _describe(cells: Sequence[Cell]) -> str:
    values = [cell["loss_increase"] for cell in cells if "loss_increase" in cell]
    if not values:
        return "failed" if cells else ""
    spread = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):.3f} ± {spread:.3f} ({len(values)})"
