"""Draws loss against what is kept, a plot a model: the mean of the seeds and their spread."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from pruning.errors import MissingExtraError


def draw_plots(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write methods-MODEL.png of the one-shot cells, and methods-MODEL-N.png after N steps.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "bench") from error
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    cells = [cell for cell in result["cells"] if "loss" in cell]
    drawn = []
    for model, steps in dict.fromkeys((cell["model"], cell["steps"]) for cell in cells):
        mine = [c for c in cells if (c["model"], c["steps"]) == (model, steps)]
        if len({cell["budget"] for cell in mine}) < 2:
            continue  # one budget makes no line: the tables have it
        path = folder / f"methods-{model}{f'-{steps}' if steps else ''}.png"
        title = f"{model}, {f'after {steps} steps' if steps else 'one-shot'}"
        _draw(mine, result["dense"][model]["loss"], title, path)
        drawn.append(path)
    return drawn


def _draw(cells: list[dict[str, Any]], dense_loss: float, title: str, path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    for number, method in enumerate(methods):
        points = _collect(cells, method)
        kept = list(points)
        means = [statistics.mean(losses) for losses in points.values()]
        colour = pyplot.get_cmap("tab20")(number % 20)
        is_ours = method == "ours"
        axes.plot(kept, means, marker="o", color=colour, label=method, lw=2.5 if is_ours else 1.2)
        low, high = [min(losses) for losses in points.values()], [max(x) for x in points.values()]
        axes.fill_between(kept, low, high, color=colour, alpha=0.15, lw=0)
    axes.axhline(dense_loss, color="grey", linestyle=":", label="dense")
    axes.set(xlabel="share of block parameters kept (budget)", ylabel="validation loss (nats)")
    axes.set_title(title)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _collect(cells: list[dict[str, Any]], method: str) -> dict[float, list[float]]:
    """Return the losses of all seeds at each budget, ascending."""
    mine = [cell for cell in cells if cell["method"] == method]
    budgets = sorted({cell["budget"] for cell in mine})
    return {b: [cell["loss"] for cell in mine if cell["budget"] == b] for b in budgets}
