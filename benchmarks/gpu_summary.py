"""Prints what benchmarks/gpu.py stored, a line a comparison, to read it and to write about it.

python benchmarks/gpu_summary.py benchmarks/results/gpu.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def summarise(result: dict[str, Any]) -> Iterator[str]:
    """Yield a heading a part and a line a row: speed-ups with their intervals, in ms."""
    yield f"{result['hardware']}, {result['date']}"
    for name, part in result["parts"].items():
        counts = ", ".join(f"{len(part[key])} {key}" for key in ("failed", "not_run"))
        yield f"\n{name}: {part['status']} ({counts})"
        yield from (_describe_row(row) for row in part["rows"])
        yield from (_describe_prediction(found) for found in part.get("predictions", ()))
        yield from (f"  failed: {failure}" for failure in part["failed"])


def _format_interval(pair: dict[str, Any]) -> str:
    if pair["low"] is None:
        return f"({pair.get('note', 'no interval')})"
    return f"[{pair['low']:.3g}, {pair['high']:.3g}]"


def _describe_row(row: dict[str, Any]) -> str:
    timed = {key: row[key] for key in ("end_to_end", "device") if key in row}
    hidden = ("kept_fraction", "bytes", "cut_seconds", "num_samples", "warmup", "tail")
    named = {
        key: value for key, value in row.items() if key not in timed and not key.startswith(hidden)
    }
    words = " ".join(_format(value) for value in named.values())
    figures = [
        f"{key} {pair['dense_ms']:.4g} -> {pair['pruned_ms']:.4g} ms, "
        f"x{pair['speedup']:.3g} {_format_interval(pair)}"
        for key, pair in timed.items()
    ]
    kept = row.get("kept_fraction_of_block_macs")
    share = "" if kept is None else f" (keeps {kept:.0%} of MACs)"
    return f"  {words}{share}  {'; '.join(figures)}".rstrip()


def _describe_prediction(found: dict[str, Any]) -> str:
    return (
        f"  predicted: batch {found['batch']} x {found['length']}, {found['percent']} % gone: "
        f"{found['predicted_ms']:.4g} ms, measured {found['measured_ms']:.4g} ms "
        f"({found['relative_error']:+.1%})"
    )


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={_format(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ",".join(_format(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print("\n".join(summarise(json.loads(Path(sys.argv[1]).read_text()))))
