"""What the cells of the comparison say: the bars, and tables for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from figures import make_bar

Cell = dict[str, Any]
OURS, GATES, COFI = "ours", "gates", "cofi-hard-concrete"
_ONE_SHOT_BAR = 0.7


def make_bars(cells: Sequence[Cell], budget: float) -> list[dict[str, Any]]:
    """Hold the means over seeds at a budget against what they must reach.

    A bar whose cells were not all measured is left out; the result lists what is missing.
    """
    bars = []
    for model in _list_values(cells, "model"):
        mine = [c for c in cells if c["model"] == model and c["budget"] == budget]
        bars += _make_one_shot_bar(model, budget, _average(mine, 0))
        for steps in _list_values([c for c in mine if c["steps"]], "steps"):
            bars += _make_trained_bars(model, budget, steps, _average(mine, steps))
    return bars


def _make_one_shot_bar(model: str, budget: float, means: dict[str, float]) -> list[dict[str, Any]]:
    peers = {method: mean for method, mean in means.items() if method != OURS}
    if OURS not in means or not peers:
        return []
    best = min(peers, key=peers.__getitem__)
    name = f"{model}: loss increase at {budget}, ours over that of the best peer ({best})"
    return [make_bar(name, means[OURS] / peers[best], _ONE_SHOT_BAR, "at_most")]


def _make_trained_bars(
    model: str, budget: float, steps: int, means: dict[str, float]
) -> list[dict[str, Any]]:
    """Compare losses: gates with one-shot, and both with CoFi's and Torch-Pruning's."""
    one_shot = {m: mean for m, mean in means.items() if m not in (GATES, COFI)}
    package = {m: mean for m, mean in one_shot.items() if m.startswith("torch-pruning")}
    others = {m: mean for m, mean in one_shot.items() if m not in package}
    if not others:
        return []
    best = min(others, key=others.__getitem__)
    pairs = [(GATES, best), (GATES, COFI), (best, COFI)]
    if package:
        rival = min(package, key=package.__getitem__)
        pairs += [(GATES, rival), (best, rival)]
    return [
        make_bar(
            f"{model}: loss at {budget} after {steps} steps, {left} minus {right}",
            means[left] - means[right],
            0.0,
            "at_most",
        )
        for left, right in pairs
        if left in means and right in means
    ]


def _average(cells: Iterable[Cell], steps: int) -> dict[str, float]:
    """Return the mean loss increase over the seeds, of each method that did not fail."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        if cell["steps"] == steps and "loss_increase" in cell:
            found.setdefault(cell["method"], []).append(cell["loss_increase"])
    return {method: statistics.mean(values) for method, values in found.items()}


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
                print(f"the dense {result['dense'][model]['loss']:.3f}, mean of seeds ± spread\n")
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
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"
