"""Quality against latency: each model a point, and the front of those that none beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nirvana_deploy.report.chart import (
    DENSE,
    PRUNED,
    TARGET,
    Chart,
    Key,
    Style,
    draw_missing,
    style_of,
    titled,
)
from nirvana_deploy.report.headline import hardware_phrase
from nirvana_deploy.report.markup import Html, join, paragraph
from nirvana_deploy.report.numbers import (
    HIGHER_IS_BETTER,
    format_metric,
    format_milliseconds,
    format_percent,
    metric_axis,
    name_metric,
)
from nirvana_deploy.report.subject import Subject
from nirvana_deploy.report.training_results import Prune

_FRONT = Style(colour=TARGET.colour, dash="dot", symbol="circle")
_KL = "divergence from dense"
_Group = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One model.

    Attributes:
        group: what points must share to be compared: metric, call, and place (machine and data).
        rows: of the call; orders the groups.
    """

    group: _Group
    rows: int
    name: str
    style: Style
    latency_ms: float
    quality: float
    kept_fraction: float | None
    is_dense: bool


def draw_quality(subjects: Sequence[Subject]) -> Html:
    """Draw a chart for each metric, machine and data set, at the smallest and the largest batch.

    Says what is missing where there is no point.
    """
    groups: dict[_Group, list[Point]] = {}
    for number, subject in enumerate(subjects):
        for point in _points(subject, number):
            groups.setdefault(point.group, []).append(point)
    if not groups:
        return draw_missing(
            "No point has both a quality and a latency.",
            "A run of `nirvana deploy` has both; a budget of `nirvana prune --scores` gets its "
            "latency from a profile.json in its folder:",
            "nirvana profile DENSE PRUNED --out BUDGETS/0.5/profile.json",
        )
    lines = [_draw_group(group, groups[group]) for group in _choose(groups)]
    if max(sum(not point.is_dense for point in points) for points in groups.values()) < 2:
        one = "One budget makes no front. `nirvana report RUN RUN ... --out FILE` draws several."
        lines.append(paragraph(one, class_="note"))
    return join(lines)


def _choose(groups: Mapping[_Group, Sequence[Point]]) -> Iterator[_Group]:
    """Give the smallest and the largest batch of each metric and place: the rest is between."""
    alike: dict[tuple[str, str], list[_Group]] = {}
    for group in sorted(groups, key=lambda group: groups[group][0].rows):
        alike.setdefault((group[0], group[2]), []).append(group)
    for calls in alike.values():
        yield from dict.fromkeys((calls[0], calls[-1]))


def find_front(points: Sequence[Point], *, higher_is_better: bool) -> tuple[Point, ...]:
    """Return the points that no other beats in latency and quality at once, fastest first."""
    sign = 1.0 if higher_is_better else -1.0
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency_ms, -sign * p.quality)):
        if not front or sign * point.quality > sign * front[-1].quality:
            front.append(point)
    return tuple(front)


def _points(subject: Subject, number: int) -> Iterator[Point]:
    prune, profile = subject.run.prune, subject.run.profile
    if prune is None:
        return
    quality = _quality(prune)
    if quality is None:
        return
    metric, dense, pruned = quality
    data = _name_data(subject, metric)
    machine = f"Latency: {hardware_phrase(profile) or 'a machine that is not recorded'}.{data}"
    for case in profile.cases if profile else ():
        group = (metric, f"{case.name_shape()}, median", machine)
        pair = (case.dense.median_ms, case.pruned.median_ms)
        yield from _pair(subject, number, group, case.batch or 0, pair, (dense, pruned))
    predicted = prune.predicted
    if predicted is not None:
        shape = ", ".join(f"{name} {size}" for name, size in predicted.call if size != "0")
        told = f"{shape}, PREDICTED" if shape else "PREDICTED"
        group = (metric, told, f"Latency: {predicted.how}.{data}")
        times = (predicted.dense_ms, predicted.pruned_ms)
        yield from _pair(subject, number, group, 0, times, (dense, pruned))


def _name_data(subject: Subject, metric: str) -> str:
    """Say on what the quality was found, where that is stored: on other data is no comparison."""
    if metric.startswith(_KL):
        text = subject.settings.get("calibration_sha256", "")[:12]
        return f" Quality: by calibration text {text}." if text else ""
    dataset = subject.settings.get("data.dataset")
    return f" Quality: on {dataset}." if dataset else ""


def _pair(
    subject: Subject,
    number: int,
    group: _Group,
    rows: int,
    latencies: tuple[float | None, float | None],
    qualities: tuple[float | None, float | None],
) -> Iterator[Point]:
    budget = subject.run.prune.budget if subject.run.prune else None
    kept = (1.0, budget.kept_fraction if budget else None)
    pruned_style = style_of(number) if subject.key else PRUNED
    styles = (DENSE, Style(colour=pruned_style.colour, symbol=pruned_style.symbol))
    both = zip(("dense", "pruned"), latencies, qualities, kept, styles, strict=True)
    for model, latency_ms, quality, kept_fraction, style in both:
        if latency_ms is not None and quality is not None:
            yield Point(
                group=group,
                rows=rows,
                name=f"{subject.key} {model}".strip(),
                style=style,
                latency_ms=latency_ms,
                quality=quality,
                kept_fraction=kept_fraction,
                is_dense=model == "dense",
            )


def _quality(prune: Prune) -> tuple[str, float | None, float | None] | None:
    """Return the metric and its value of both models; without one, the divergence."""
    for name in (prune.metric, "loss"):
        if prune.pruned.score(name) is not None:
            return name, prune.dense.score(name), prune.pruned.score(name)
    for name, told in (("held-out", prune.held_out), ("calibration", prune.calibration)):
        if told.kl_divergence is not None:
            return f"{_KL}, {name} text (nats)", 0.0, told.kl_divergence
    return None


def _draw_group(group: _Group, points: list[Point]) -> Html:
    metric, shape, place = group
    known = HIGHER_IS_BETTER.get("kl" if metric.startswith(_KL) else metric)
    front = () if known is None else find_front(points, higher_is_better=known)
    name = name_metric(metric)
    title = f"{name} against latency, {shape}"
    ends = "; ".join(
        f"{p.name} {_write(metric, p.quality)} at {format_milliseconds(p.latency_ms)}"
        for p in points
    )
    drawn = Chart(
        title=title,
        label=f"{title}: {ends}",
        keys=tuple(_keys(points, front)),
        traces=[*_front_trace(front), *(_trace(point, metric) for point in points)],
        header=("Model", "Kept", "Latency", name, "On the front"),
        rows=[
            (
                p.name,
                format_percent(p.kept_fraction),
                format_milliseconds(p.latency_ms),
                _write(metric, p.quality),
                "yes" if p in front else "no" if front else "not known",
            )
            for p in points
        ],
        x={**titled("latency, ms"), "rangemode": "tozero"},
        y={**titled(_axis_title(metric, known)), "tickformat": _axis(metric)}
        | {"automargin": True},
        height=300,
    ).draw()
    lines = [drawn, paragraph(place, class_="note")]
    if known is None:
        unknown = f"No front: it is not known whether more {name_metric(metric, capital=False)} is "
        lines.append(paragraph(f"{unknown}better or worse.", class_="note"))
    return join(lines)


def _write(metric: str, value: float) -> str:
    """Write a quality; a divergence may be far below the digits of other metrics."""
    return f"{value:.3g}" if metric.startswith(_KL) else format_metric(metric, value)


def _axis(metric: str) -> str:
    return ".3~g" if metric.startswith(_KL) else metric_axis(metric)


def _axis_title(metric: str, known: bool | None) -> str:
    short = "divergence, nats" if metric.startswith(_KL) else name_metric(metric, capital=False)
    return short if known is None else f"{short} ({'more' if known else 'less'} is better)"


def _keys(points: list[Point], front: tuple[Point, ...]) -> Iterator[Key]:
    if any(point.is_dense for point in points):
        yield Key(name="dense", style=DENSE, kind="dot")
    for point in points:
        if not point.is_dense:
            yield Key(name=point.name, style=point.style, kind="dot")
    if len(front) > 1:
        yield Key(name="front: no other is better in both", style=_FRONT, kind="line")


def _front_trace(front: tuple[Point, ...]) -> list[dict[str, object]]:
    if len(front) < 2:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "front",
            "x": [point.latency_ms for point in front],
            "y": [point.quality for point in front],
            # A step: between two points, what is had is the faster one.
            "line": {"color": _FRONT.colour, "width": 2, "dash": _FRONT.dash, "shape": "hv"},
            "hoverinfo": "skip",
        }
    ]


def _trace(point: Point, metric: str) -> dict[str, object]:
    key = point.name.removesuffix("pruned").strip() if not point.is_dense else ""
    return {
        "type": "scatter",
        "mode": "markers+text" if key else "markers",
        "name": point.name,
        "x": [point.latency_ms],
        "y": [point.quality],
        "text": [key],
        # The front leaves this side free, whichever way it climbs.
        "textposition": "bottom left",
        "cliponaxis": False,
        "marker": {
            "color": point.style.colour,
            "size": 11,
            "symbol": point.style.symbol,
            "line": {"color": point.style.colour, "width": 2},
        },
        "hovertemplate": f"{point.name}: %{{y:{_axis(metric)}}} at %{{x:.3g}} ms<extra></extra>",
    }
