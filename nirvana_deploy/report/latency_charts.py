"""The spread of the latencies: every run of every model, a chart for each batch shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from nirvana_deploy.report.chart import DENSE, PRUNED, Chart, Key, Style, titled
from nirvana_deploy.report.headline import interval_words
from nirvana_deploy.report.markup import Html, element, join, paragraph, table
from nirvana_deploy.report.numbers import (
    MISSING,
    TIMES,
    format_count,
    format_milliseconds,
    format_percent,
    format_ratio,
)
from nirvana_deploy.report.serving_results import CaseView, Profile, TimingView, list_shapes

_HEADER = (f"Batch {TIMES} length", "Model", "Median", "p90", "Samples", "Variation", "Speed-up")


def draw_measurements(profile: Profile) -> Html:
    """Draw two rows a batch shape, then what the measurement said about itself."""
    rows = [row for case in profile.cases for row in _case_rows(case)]
    drawn = table("Latency of both models", _HEADER, rows or [(MISSING,) * 7])
    notes = [note for case in profile.cases for note in _notes(case)]
    listed = element("ul", *(element("li", note) for note in notes), class_="note")
    return join([_draw_partial(profile), drawn, listed if notes else ""])


def _draw_partial(profile: Profile) -> Html:
    if profile.partial is None:
        return Html()
    words = element("strong", "PARTIAL: the measurement ended early.")
    return element("p", words, f" {profile.partial}", class_="absent")


def _case_rows(case: CaseView) -> list[tuple[str, ...]]:
    shape = f"{format_count(case.batch)} {TIMES} {format_count(case.length)}"
    ratio = format_ratio(case.speedup.ratio)
    speedup = join([ratio, " ", element("small", interval_words(case.speedup) or "")])
    return [
        (shape, "dense", *_cells(case.dense), ""),
        (shape, "pruned", *_cells(case.pruned), speedup),
    ]


def _cells(timing: TimingView) -> tuple[str, ...]:
    return (
        format_milliseconds(timing.median_ms),
        _percentile(timing),
        format_count(timing.num_samples),
        format_percent(timing.coefficient_of_variation),
    )


def _percentile(timing: TimingView) -> str:
    if timing.p90_ms is not None:
        return format_milliseconds(timing.p90_ms)
    return join(["withheld ", element("small", timing.p90_note or "no reason recorded")])


def _notes(case: CaseView) -> list[str]:
    shape = f"{case.name_shape().capitalize()}: "
    unsettled = (
        ["latency was still moving when it was measured"] if case.stationary is False else []
    )
    return [shape + note for note in (*unsettled, *case.notes)]


_ROW_HEIGHT, _AXIS_HEIGHT = 46, 62
_MIN_HEIGHT = 210
# The picture ends at this times the slowest model's upper quartile.
_REACH = 2.5
_FROM_ZERO = {"rangemode": "tozero"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One model of one run on one batch shape; `name` is what the axis calls it."""

    name: str
    timing: TimingView
    style: Style


def draw_latencies(profiled: Sequence[tuple[str, Sequence[CaseView]]]) -> Html:
    """Draw every measured latency, dense above pruned, a chart for each batch shape.

    `profiled` has each run's key and its cases; one run alone needs no key.
    """
    by_shape: dict[str, list[_Row]] = {}
    for key, cases in profiled:
        for case in cases:
            by_shape.setdefault(case.name_shape(), []).extend(_rows(key, case))
    shapes = list_shapes(case for _, cases in profiled for case in cases)
    return join(_draw_shape(shape, by_shape[shape]) for shape in shapes)


def _rows(key: str, case: CaseView) -> list[_Row]:
    timings = (("dense", case.dense, DENSE), ("pruned", case.pruned, PRUNED))
    return [_Row(name=f"{key} {name}".strip(), timing=t, style=s) for name, t, s in timings]


def _draw_shape(shape: str, rows: list[_Row]) -> Html:
    title = shape.capitalize()
    drawn = [row for row in rows if row.timing.samples_ms]
    if not drawn:
        return element("p", f"{title}: no single latencies are stored.", class_="note")
    medians = ", ".join(f"{r.name} median {format_milliseconds(r.timing.median_ms)}" for r in rows)
    limit, beyond = _find_limit(drawn)
    chart = Chart(
        title=f"{title}: each call and its quartiles",
        label=f"{title}: {medians}",
        keys=(
            Key(name="dense", style=DENSE, kind="dot"),
            Key(name="pruned", style=PRUNED, kind="dot"),
        ),
        # Plotly builds upwards, a reader reads downwards.
        traces=[_box(row) for row in reversed(drawn)],
        header=("Model", "Least", "Quarter", "Median", "Three quarters", "p90", "Most", "Samples"),
        rows=[_figures(row) for row in rows],
        x={**titled("ms"), "range": [0, limit]} if beyond else {**titled("ms"), **_FROM_ZERO},
        y={"showgrid": False, "automargin": True},
        height=max(_MIN_HEIGHT, _AXIS_HEIGHT + _ROW_HEIGHT * len(drawn)),
    ).draw()
    if not beyond:
        return chart
    whole = sum(len(row.timing.samples_ms) for row in drawn)
    words = (
        f"{len(beyond)} of {whole} calls took longer than the picture is wide, up to "
        f"{format_milliseconds(max(beyond))}."
    )
    return element("div", chart, paragraph(words, class_="note"))


def _find_limit(rows: Sequence[_Row]) -> tuple[float, list[float]]:
    """Return how far the picture goes, and the latencies beyond: few may not squeeze the rest."""
    limit = _REACH * max(_quartiles(row.timing.samples_ms)[2] for row in rows)
    return limit, [ms for row in rows for ms in row.timing.samples_ms if ms > limit]


def _quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    if len(samples) < 2:
        return (samples[0],) * 3
    first, second, third = quantiles(samples, n=4, method="inclusive")
    return first, second, third


def _box(row: _Row) -> dict[str, object]:
    style = row.style
    return {
        "type": "box",
        "orientation": "h",
        "name": row.name,
        "x": list(row.timing.samples_ms),
        "boxpoints": "all",
        "jitter": 0.6,
        "pointpos": 0,
        "marker": {"color": style.colour, "size": 4, "opacity": 0.55, "symbol": style.symbol},
        "line": {"color": style.colour, "width": 1.5},
        "fillcolor": "rgba(0,0,0,0)",
        "hovertemplate": "%{x:.3g} ms<extra></extra>",
        "hoveron": "points",
    }


def _figures(row: _Row) -> tuple[str, ...]:
    timing = row.timing
    samples = timing.samples_ms
    spread = _quartiles(samples) if samples else (None,) * 3
    figures = (
        min(samples, default=None),
        spread[0],
        timing.median_ms,
        spread[2],
        timing.p90_ms,
        max(samples, default=None),
    )
    written = (format_milliseconds(figure) for figure in figures)
    return (row.name, *written, format_count(len(samples)) if samples else MISSING)
