"""What a profile gave under load: callers that wait in turn, and requests at random times."""

from __future__ import annotations

from collections.abc import Sequence

from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.markup import Html, element, join, table
from nirvana_deploy.report.numbers import (
    TIMES,
    format_count,
    format_milliseconds,
    format_short,
)
from nirvana_deploy.report.serving_results import Profile

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
