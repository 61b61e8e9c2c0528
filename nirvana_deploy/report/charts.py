"""The plotly charts: curves of the training and the spread of the latencies.

Colours of text and grid are left to the page's style sheet, which follows light, dark and print.
"""

import json
from collections.abc import Sequence
from typing import Any

from nirvana_deploy.report.markup import Html, element, join
from nirvana_deploy.report.metrics import format_metric, metric_axis, name_metric
from nirvana_deploy.report.numbers import format_milliseconds, format_percent
from nirvana_deploy.report.serving_results import ProfileCase, Timing
from nirvana_deploy.report.training_results import Baseline, CurvePoint, Prune

# Each has a contrast of 3 or more on the page's white and on its near-black.
DENSE, PRUNED, TARGET = "#77838f", "#0f8f7a", "#c26a1f"
_HEIGHT = 210


def draw_baseline_curve(baseline: Baseline) -> Html:
    """Draw the loss of the dense model's fine-tuning."""
    points = [point for point in baseline.curve if point.loss is not None]
    if not points:
        return Html()
    trace = _line(points, [point.loss for point in points], "loss", DENSE)
    title = "Loss while fine-tuning the dense model"
    label = f"{title}: {_from_to(points[0].loss, points[-1].loss)}"
    return _chart(title, (("loss", DENSE, "line"),), [trace], label, {}, {})


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
            _loss_chart(prune, shared),
            _kept_chart(prune, shared),
            _quality_chart(prune, shared),
        ]
    )


def draw_latencies(cases: Sequence[ProfileCase]) -> Html:
    """Draw every measured latency, dense above pruned, a chart for each batch shape."""
    return join(_latency_chart(case) for case in cases)


def _loss_chart(prune: Prune, shared: dict[str, Any]) -> Html:
    points = [point for point in prune.curve if point.loss is not None]
    if not points:
        return Html()
    trace = _line(points, [point.loss for point in points], "loss", PRUNED)
    title = "Training loss while pruning"
    label = f"{title}: {_from_to(points[0].loss, points[-1].loss)}"
    return _chart(title, (("loss", PRUNED, "line"),), [trace], label, shared, {})


def _kept_chart(prune: Prune, shared: dict[str, Any]) -> Html:
    points = [point for point in prune.curve if point.kept_fraction is not None]
    if not points:
        return Html()
    target = _line(points, [p.target_kept_fraction for p in points], "target", TARGET, shape="hv")
    actual = _line(points, [p.kept_fraction for p in points], "actual", PRUNED)
    title = "Kept fraction, target and actual (sparsity is the rest)"
    ends = (
        f"{format_percent(points[0].kept_fraction)} to {format_percent(points[-1].kept_fraction)}"
    )
    percent = {"tickformat": ".0%", "rangemode": "tozero"}
    legend = (("actual", PRUNED, "line"), ("target", TARGET, "line"))
    return _chart(title, legend, [target, actual], f"{title}: actual from {ends}", shared, percent)


def _quality_chart(prune: Prune, shared: dict[str, Any]) -> Html:
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
    legend = [("while pruning", PRUNED, "dot")]
    traces = [trace]
    dense = prune.dense.score(name)
    if dense is not None:
        # A trace, not a shape: the axis then makes room for it.
        traces.append(_dense_level(shared["range"], dense, written))
        legend.append(("dense model", DENSE, "dash"))
    title = f"Validation {name_metric(name, capital=False)} at each pruning step"
    first, last = (format_metric(name, point.score(name)) for point in (points[0], points[-1]))
    label = f"{title}: from {first} to {last}"
    return _chart(title, legend, traces, label, shared, {"tickformat": written})


def _latency_chart(case: ProfileCase) -> Html:
    title = case.name_shape().capitalize()
    timings = (("pruned", case.pruned, PRUNED), ("dense", case.dense, DENSE))
    traces = [_box(name, timing, colour) for name, timing, colour in timings if timing.samples_ms]
    if not traces:
        return element("p", f"{title}: no single latencies are stored.", class_="note")
    medians = ", ".join(f"{n} median {format_milliseconds(t.median_ms)}" for n, t, _ in timings)
    legend = (("dense", DENSE, "dot"), ("pruned", PRUNED, "dot"))
    x = {"title": {"text": "ms"}, "rangemode": "tozero"}
    label = f"{title}: {medians}"
    title += ": each run and its quartiles"
    return _chart(title, legend, traces, label, x, {"showgrid": False, "automargin": True})


def _box(name: str, timing: Timing, colour: str) -> dict[str, Any]:
    return {
        "type": "box",
        "orientation": "h",
        "name": name,
        "x": list(timing.samples_ms),
        "boxpoints": "all",
        "jitter": 0.6,
        "pointpos": 0,
        "marker": {"color": colour, "size": 4, "opacity": 0.55},
        "line": {"color": colour, "width": 1.5},
        "fillcolor": "rgba(0,0,0,0)",
        "hovertemplate": "%{x:.3g} ms<extra></extra>",
        "hoveron": "points",
    }


def _line(
    points: Sequence[CurvePoint],
    values: Sequence[float | None],
    name: str,
    colour: str,
    shape: str = "linear",
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines" if len(points) > 1 else "markers",
        "name": name,
        "x": [point.step for point in points],
        "y": list(values),
        "line": {"color": colour, "width": 2, "shape": shape},
        "marker": {"color": colour, "size": 8},
    }


def _dense_level(x_range: Sequence[float], level: float, written: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "dense",
        "x": list(x_range),
        "y": [level, level],
        "line": {"color": DENSE, "width": 2, "dash": "dash"},
        "hovertemplate": f"dense: %{{y:{written}}}<extra></extra>",
    }


def _stage(point: CurvePoint) -> str:
    return "" if point.pruning_stage is None else f"stage {point.pruning_stage}, "


def _from_to(first: float | None, last: float | None) -> str:
    return f"from {first:.3g} to {last:.3g}" if first is not None and last is not None else ""


def _chart(
    title: str,
    legend: Sequence[tuple[str, str, str]],
    traces: list[dict[str, Any]],
    label: str,
    x: dict[str, Any],
    y: dict[str, Any],
) -> Html:
    fixed = {"zeroline": False, "fixedrange": True}
    layout = {
        "height": _HEIGHT,
        "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 12, "t": 8, "b": 44},
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "xaxis": {"title": {"text": "step", "standoff": 8}, **fixed, **x},
        "yaxis": {**fixed, **y},
    }
    stored = json.dumps({"data": traces, "layout": layout}, allow_nan=False)
    # In a script element only "<" could end it early, and JSON may write it as an escape.
    safe = Html(stored.replace("<", "\\u003c"))
    keys = (_legend_key(name, colour, kind) for name, colour, kind in legend)
    return element(
        "figure",
        element("figcaption", element("strong", title), *keys),
        element("div", class_="chart", role="img", aria_label=label, style=f"height:{_HEIGHT}px"),
        element("script", safe, type="application/json", class_="chart-data"),
    )


def _legend_key(name: str, colour: str, kind: str) -> Html:
    swatch = element("i", class_=f"swatch {kind}", style=f"color:{colour}", aria_hidden="true")
    return element("span", swatch, name, class_="key")
