"""How much a model answers per second, by batch size and by callers at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nirvana_deploy.report.chart import (
    DENSE,
    PRUNED,
    Chart,
    Key,
    Style,
    draw_missing,
    style_of,
    titled,
)
from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.markup import Html, element, join, paragraph, table
from nirvana_deploy.report.numbers import (
    MISSING,
    TIMES,
    format_count,
    format_milliseconds,
    format_ratio,
    format_short,
)
from nirvana_deploy.report.serving_results import Profile
from nirvana_deploy.report.subject import Subject, Sweep, ThroughputPoint

_HEADER_GENERATION = (
    f"Batch {TIMES} prompt",
    "Model",
    "Tokens",
    "First token",
    "Speed-up",
    "Between tokens",
    "Speed-up",
    "Tokens a second",
)


def draw_generations(profiled: Sequence[tuple[str, Profile]]) -> Html:
    """Draw two rows a case, dense and pruned; nothing where no text was generated."""
    rows = [
        row for key, profile in profiled for case in profile.generations for row in _rows(key, case)
    ]
    return (
        table("Generated text, medians with 95 % intervals", _HEADER_GENERATION, rows)
        if rows
        else Html()
    )


def _rows(key: str, case: Fields) -> list[tuple[str, ...]]:
    shape = (
        f"{format_count(case.count('batch'))} {TIMES} {format_count(case.count('prompt_length'))}"
    )
    return [
        (
            shape,
            f"{key} {model}".strip(),
            format_count(case.count("num_tokens")),
            _wait(case.part(model).part("first_token")),
            _ratio(case.part("first_token_speedup")) if model == "pruned" else "",
            _wait(case.part(model).part("inter_token")),
            _ratio(case.part("inter_token_speedup")) if model == "pruned" else "",
            format_short(case.part(model).number("tokens_per_s")),
        )
        for model in ("dense", "pruned")
    ]


def _wait(wait: Fields) -> str:
    low, high = wait.number("low_ms"), wait.number("high_ms")
    median = format_milliseconds(wait.number("median_ms"))
    if low is None or high is None:
        return median
    return join([median, " ", element("small", f"[{low:.3g}, {high:.3g}]")])


def _ratio(speedup: Fields) -> str:
    low, high = speedup.number("low"), speedup.number("high")
    ratio = format_ratio(speedup.number("ratio"))
    if ratio == MISSING:
        return ratio
    if low is None or high is None:
        note = speedup.text("note")
        return join([ratio, " ", element("small", note)]) if note else ratio
    return join([ratio, " ", element("small", f"[{low:.2f}, {high:.2f}]")])


_HEADER = (f"Batch {TIMES} length", "Model", "Load", "Answers a second", "Median", "p90")


def draw_loads(profiled: Sequence[tuple[str, Profile]]) -> Html:
    """Draw a row for each model and load; nothing where none was measured."""
    rows = [_row(key, point) for key, profile in profiled for point in profile.loads]
    return table("Latency under load, waiting included", _HEADER, rows) if rows else Html()


def _row(key: str, point: Fields) -> tuple[str, ...]:
    answers = format_short(point.number("achieved_per_s"))
    if point.flag("overloaded"):
        answers = join([answers, " ", element("strong", "OVERLOADED")])
    return (
        f"{format_count(point.count('batch'))} {TIMES} {format_count(point.count('length'))}",
        f"{key} {point.text('model') or ''}".strip(),
        _name_load(point),
        answers,
        format_milliseconds(point.number("median_ms")),
        _percentile(point),
    )


def _name_load(point: Fields) -> str:
    offered = point.number("offered_per_s")
    if offered is not None:
        return f"{offered:g}/s at random"
    callers = point.count("num_callers")
    return f"{format_count(callers)} caller{'' if callers == 1 else 's'}"


def _percentile(point: Fields) -> str:
    p90_ms = point.number("p90_ms")
    if p90_ms is not None:
        return format_milliseconds(p90_ms)
    return join(["withheld ", element("small", point.text("p90_note") or "no reason recorded")])


_Points = Callable[[Sweep], tuple[ThroughputPoint, ...]]
_Line = tuple[str, Style, tuple[ThroughputPoint, ...]]


def draw_throughput(subjects: Sequence[Subject]) -> Html:
    """Draw a chart for each length that was swept; say what is missing where there is none."""
    batches = _draw_each(subjects, lambda sweep: sweep.batches, "batch", "rows")
    callers = _draw_each(subjects, lambda sweep: sweep.callers, "callers at a time", "answers")
    if not callers:
        callers = paragraph(
            "No curve by callers at a time; `nirvana sweep MODEL --callers 1,2,4 --out FILE.json` "
            "measures one, and `nirvana profile DENSE PRUNED --callers 1,2,4` one of each.",
            class_="note",
        )
    if not batches:
        batches = draw_missing(
            "No curve by batch size: it takes two batch sizes or more.",
            "Measure them, or set profile.batch_sizes in the recipe:",
            "nirvana profile DENSE PRUNED --batch-sizes 1,2,4,8,16 --out FILE.json",
        )
    profiled = [(s.key, s.run.profile) for s in subjects if s.run.profile is not None]
    return join([batches, callers, draw_loads(profiled)])


def _draw_each(subjects: Sequence[Subject], points: _Points, load: str, what: str) -> Html:
    by_length: dict[int | None, list[_Line]] = {}
    for number, subject in enumerate(subjects):
        for sweep in subject.curves:
            if len(points(sweep)) > 1:
                name, style = _name(subject, sweep), _style(subject, number, sweep)
                by_length.setdefault(sweep.length, []).append((name, style, points(sweep)))
    return join(
        _draw_length(length, lines, load, what) for length, lines in _sort_lengths(by_length)
    )


def _sort_lengths(by_length: dict[int | None, list[_Line]]) -> list[tuple[int | None, list[_Line]]]:
    """Return the items by length, the unknown one first."""
    return sorted(by_length.items(), key=lambda item: item[0] or 0)


def _draw_length(length: int | None, lines: list[_Line], load: str, what: str) -> Html:
    title = f"{what.capitalize()} per second by {load}"
    title += "" if length is None else f", length {length}"
    best = [(name, max(points, key=lambda point: point.per_s)) for name, _, points in lines]
    ends = "; ".join(f"{name} up to {p.per_s:.3g} at {p.load}" for name, p in best)
    loads = sorted({point.load for _, _, points in lines for point in points})
    return Chart(
        title=title,
        label=f"{title}: {ends}",
        keys=tuple(Key(name=name, style=style, kind="both") for name, style, _ in lines),
        traces=[_trace(*line, what) for line in lines],
        header=(load.capitalize(), "Model", f"{what.capitalize()} per second", "Median latency"),
        rows=[
            (
                format_count(p.load),
                name,
                format_short(p.per_s),
                format_milliseconds(p.median_ms),
            )
            for name, _, points in lines
            for p in points
        ],
        # Loads are doubled rather than added to; only those that were measured are written.
        x={
            **titled(load),
            "type": "log",
            "tickvals": loads,
            "ticktext": [str(load) for load in loads],
        },
        y={**titled(f"{what} per second"), "rangemode": "tozero", "automargin": True},
        height=260,
    ).draw()


def _trace(
    name: str, style: Style, points: tuple[ThroughputPoint, ...], what: str
) -> dict[str, object]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [point.load for point in points],
        "y": [point.per_s for point in points],
        "line": {"color": style.colour, "width": 2, "dash": style.dash},
        "marker": {"color": style.colour, "size": 8, "symbol": style.symbol},
        "hovertemplate": f"{name}, %{{x}}: %{{y:.3g}} {what} per second<extra></extra>",
    }


def _name(subject: Subject, sweep: Sweep) -> str:
    return f"{subject.key} {sweep.model}".strip()


def _style(subject: Subject, number: int, sweep: Sweep) -> Style:
    if not subject.key:
        return DENSE if sweep.model == "dense" else PRUNED
    style = style_of(number)
    if sweep.model != "dense":
        return style
    # The dense model of a run: the run's symbol in outline, and grey.
    return Style(colour=DENSE.colour, dash=DENSE.dash, symbol=f"{style.symbol}-open")
