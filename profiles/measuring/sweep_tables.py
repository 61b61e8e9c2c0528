"""Writes what a sweep found as CSV and as Markdown, beside the JSON that has all of it."""

from __future__ import annotations

import csv
import io

from profiles.measuring.sweep import SweepResult

_COLUMNS = (
    "model",
    "length",
    "batch",
    "num_callers",
    "per_s",
    "median_ms",
    "p90_ms",
    "num_samples",
    "semantics",
)


def to_csv(result: SweepResult) -> str:
    """Return a row a load; `per_s` counts rows of a batch, or answers to callers."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_list_rows(result))
    return text.getvalue()


def to_markdown(result: SweepResult) -> str:
    """Return a table with a row a load, and where and how it was measured."""
    lines = [
        "| batch | callers | a second | median ms | p90 ms | samples |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in _list_rows(result):
        p90 = "" if row["p90_ms"] is None else f"{row['p90_ms']:.3f}"
        lines.append(
            f"| {row['batch']} | {row['num_callers']} | {row['per_s']:.1f} | "
            f"{row['median_ms']:.3f} | {p90} | {row['num_samples']} |"
        )
    place, method = result.environment, result.method
    lines += [
        "",
        f"{result.model}, length {result.length}: {method.get('semantics', '')}; on "
        f"{place.get('cpu', 'an unknown processor')} with {place.get('num_threads', 'unknown')} "
        f"threads, {place.get('captured_at', 'undated')}.",
    ]
    return "\n".join(lines) + "\n"


def _list_rows(result: SweepResult) -> list[dict[str, object]]:
    same = {
        "model": result.model,
        "length": result.length,
        "semantics": result.method.get("semantics", ""),
    }
    rows: list[dict[str, object]] = [
        {
            **same,
            "batch": point.batch,
            "num_callers": 1,
            "per_s": point.rows_per_s,
            "median_ms": point.median_ms,
            "p90_ms": None,
            "num_samples": point.num_samples,
        }
        for point in result.batches
    ]
    for load in result.callers:
        rows.append(
            {
                **same,
                "batch": 1,
                "num_callers": load.num_callers,
                "per_s": load.achieved_per_s,
                "median_ms": load.median_ms,
                "p90_ms": load.percentile_ms(90)[0],
                "num_samples": load.latency_ms.size,
            }
        )
    return rows
