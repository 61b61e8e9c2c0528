"""Writes what a profile found as CSV and as Markdown, beside the JSON that has all of it."""

from __future__ import annotations

import csv
import io

from profiles.comparing.profile_result import ProfileCase, ProfileResult, Timing

_COLUMNS = (
    "batch",
    "length",
    "model",
    "median_ms",
    "mean_ms",
    "p90_ms",
    "coefficient_of_variation",
    "throughput_per_s",
    "num_samples",
    "speedup",
    "speedup_low",
    "speedup_high",
    "verdict",
    "stationary",
)


def to_csv(result: ProfileResult) -> str:
    """Return a row for each model and case; the speed-up is in the row of the pruned model.

    A figure that is withheld is an empty cell.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for case in result.cases:
        writer.writerow({**_list_timing(case, case.dense), "model": "dense"})
        writer.writerow(
            {
                **_list_timing(case, case.pruned),
                "model": "pruned",
                "speedup": case.speedup.ratio,
                "speedup_low": case.speedup.low,
                "speedup_high": case.speedup.high,
                "verdict": case.verdict,
            }
        )
    return text.getvalue()


def to_markdown(result: ProfileResult) -> str:
    """Return a table with a row for each case, where it was measured, and every note."""
    lines = [
        "| batch | length | dense ms | pruned ms | speed-up (95 %) | verdict |",
        "|---:|---:|---:|---:|---:|---|",
    ]
    notes = []
    for case in result.cases:
        doubt = "" if case.stationary else ", not stationary"
        ratio = case.speedup
        lines.append(
            f"| {case.batch} | {case.length} | {case.dense.median_ms:.3f} | "
            f"{case.pruned.median_ms:.3f} | {ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] "
            f"| {case.verdict}{doubt} |"
        )
        notes += [f"- batch {case.batch} x {case.length}: {note}" for note in case.notes]
    place = result.environment
    lines += [
        "",
        f"Medians, in turns, on {place.get('cpu', 'an unknown processor')} with "
        f"{place.get('num_threads', 'an unknown number of')} threads, "
        f"{place.get('captured_at', 'undated')}.",
    ]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _list_timing(case: ProfileCase, timing: Timing) -> dict[str, object]:
    return {
        "batch": case.batch,
        "length": case.length,
        "median_ms": timing.median_ms,
        "mean_ms": timing.mean_ms,
        "p90_ms": timing.p90_ms,
        "coefficient_of_variation": timing.coefficient_of_variation,
        "throughput_per_s": timing.throughput_per_s,
        "num_samples": timing.num_samples,
        "stationary": case.stationary,
    }
