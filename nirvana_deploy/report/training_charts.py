"""The curves of the training: loss, kept fraction and validation score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nirvana_deploy.report.chart import DENSE, PRUNED, TARGET, Chart, Key, Style
from nirvana_deploy.report.markup import Html, join
from nirvana_deploy.report.numbers import (
    format_count,
    format_decimal,
    format_metric,
    format_percent,
    metric_axis,
    name_metric,
)
from nirvana_deploy.report.training_results import Baseline, CurvePoint, Prune


def draw_baseline_curve(baseline: Baseline) -> Html:
    """Draw the loss of the dense model's fine-tuning."""
    title = "Loss while fine-tuning the dense model"
    return _draw_loss(title, baseline.curve, DENSE, {})


def draw_pruning_curves(prune: Prune) -> Html:
    """Draw loss, kept fraction and validation score over the same steps."""
    steps = [point.step for point in (*prune.curve, *prune.validations)]
    if not steps:
        return Html()
    margin = max(1.0, 0.02 * (max(steps) - min(steps)))
    # One range for all three, so that a step stands in one place.
    shared = {"range": [min(steps) - margin, max(steps) + margin]}
    return join(
        [
            _draw_loss("Training loss while pruning", prune.curve, PRUNED, shared),
            _draw_kept(prune, shared),
            _draw_quality(prune, shared),
        ]
    )


def _draw_loss(
    title: str, curve: Sequence[CurvePoint], style: Style, shared: dict[str, Any]
) -> Html:
    points = [point for point in curve if point.loss is not None]
    if not points:
        return Html()
    losses = [point.loss for point in points]
    style = Style(colour=style.colour)  # the only line: solid is read best
    return Chart(
        title=title,
        label=f"{title}: {_from_to(losses[0], losses[-1])}",
        keys=(Key(name="loss", style=style, kind="line"),),
        traces=[_line(points, losses, "loss", style)],
        header=("Step", "Loss"),
        rows=[(format_count(p.step), format_decimal(p.loss)) for p in points],
        x=shared,
    ).draw()


def _draw_kept(prune: Prune, shared: dict[str, Any]) -> Html:
    points = [point for point in prune.curve if point.kept_fraction is not None]
    if not points:
        return Html()
    target = _line(points, [p.target_kept_fraction for p in points], "target", TARGET, shape="hv")
    actual = _line(points, [p.kept_fraction for p in points], "actual", PRUNED)
    title = "Kept fraction, target and actual (sparsity is the rest)"
    ends = (
        f"{format_percent(points[0].kept_fraction)} to {format_percent(points[-1].kept_fraction)}"
    )
    return Chart(
        title=title,
        label=f"{title}: actual from {ends}",
        keys=(
            Key(name="actual", style=PRUNED, kind="line"),
            Key(name="target", style=TARGET, kind="line"),
        ),
        traces=[target, actual],
        header=("Step", "Target", "Actual"),
        rows=[
            (
                format_count(p.step),
                format_percent(p.target_kept_fraction),
                format_percent(p.kept_fraction),
            )
            for p in points
        ],
        x=shared,
        y={"tickformat": ".0%", "rangemode": "tozero"},
    ).draw()


def _draw_quality(prune: Prune, shared: dict[str, Any]) -> Html:
    # Language models are validated by their loss alone.
    measured = any(point.score(prune.metric) is not None for point in prune.validations)
    name = prune.metric if measured else "loss"
    points = [point for point in prune.validations if point.score(name) is not None]
    if not points:
        return Html()
    written = metric_axis(name)
    trace = _line(points, [point.score(name) for point in points], "pruned", PRUNED)
    trace |= {"mode": "lines+markers", "customdata": [_stage(point) for point in points]}
    trace["hovertemplate"] = f"%{{customdata}}step %{{x}}: %{{y:{written}}}<extra></extra>"
    keys = [Key(name="while pruning", style=PRUNED, kind="both")]
    traces = [trace]
    dense = prune.dense.score(name)
    if dense is not None:
        # A trace, not a shape: the axis then makes room for it.
        traces.append(_dense_level(shared["range"], dense, written))
        keys.append(Key(name="dense model", style=DENSE, kind="line"))
    title = f"Validation {name_metric(name, capital=False)} at each pruning step"
    first, last = (format_metric(name, point.score(name)) for point in (points[0], points[-1]))
    return Chart(
        title=title,
        label=f"{title}: from {first} to {last}",
        keys=tuple(keys),
        traces=traces,
        header=("Step", name_metric(name), "Kept"),
        rows=[
            (
                format_count(p.step),
                format_metric(name, p.score(name)),
                format_percent(p.kept_fraction),
            )
            for p in points
        ],
        x=shared,
        y={"tickformat": written},
    ).draw()


def _line(
    points: Sequence[CurvePoint],
    values: Sequence[float | None],
    name: str,
    style: Style,
    shape: str = "linear",
) -> dict[str, object]:
    return {
        "type": "scatter",
        "mode": "lines" if len(points) > 1 else "markers",
        "name": name,
        "x": [point.step for point in points],
        "y": list(values),
        "line": {"color": style.colour, "width": 2, "shape": shape, "dash": style.dash},
        "marker": {"color": style.colour, "size": 8, "symbol": style.symbol},
    }


def _dense_level(x_range: Sequence[float], level: float, written: str) -> dict[str, object]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "dense",
        "x": list(x_range),
        "y": [level, level],
        "line": {"color": DENSE.colour, "width": 2, "dash": DENSE.dash},
        "hovertemplate": f"dense: %{{y:{written}}}<extra></extra>",
    }


def _stage(point: CurvePoint) -> str:
    return "" if point.pruning_stage is None else f"stage {point.pruning_stage}, "


def _from_to(first: float | None, last: float | None) -> str:
    return f"from {first:.3g} to {last:.3g}" if first is not None and last is not None else ""
