"""The latency table: medians, percentiles or why they are withheld, spread, notes."""

from nirvana_deploy.report.headline import interval_words
from nirvana_deploy.report.markup import Html, element, join, table
from nirvana_deploy.report.numbers import (
    MISSING,
    TIMES,
    format_count,
    format_milliseconds,
    format_percent,
    format_ratio,
)
from nirvana_deploy.report.serving_results import Profile, ProfileCase, Timing

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


def _case_rows(case: ProfileCase) -> list[tuple[str, ...]]:
    shape = f"{format_count(case.batch)} {TIMES} {format_count(case.length)}"
    ratio = format_ratio(case.speedup.ratio)
    speedup = join([ratio, " ", element("small", interval_words(case.speedup) or "")])
    return [
        (shape, "dense", *_cells(case.dense), ""),
        (shape, "pruned", *_cells(case.pruned), speedup),
    ]


def _cells(timing: Timing) -> tuple[str, ...]:
    return (
        format_milliseconds(timing.median_ms),
        _percentile(timing),
        format_count(timing.num_samples),
        format_percent(timing.coefficient_of_variation),
    )


def _percentile(timing: Timing) -> str:
    if timing.p90_ms is not None:
        return format_milliseconds(timing.p90_ms)
    return join(["withheld ", element("small", timing.p90_note or "no reason recorded")])


def _notes(case: ProfileCase) -> list[str]:
    shape = f"{case.name_shape().capitalize()}: "
    unsettled = (
        ["latency was still moving when it was measured"] if case.stationary is False else []
    )
    return [shape + note for note in (*unsettled, *case.notes)]
