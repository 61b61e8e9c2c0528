"""Writes what a profile found as CSV and as Markdown, beside the JSON that has all of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from profiles.comparing.generation_result import TokenTiming
from profiles.comparing.profile_result import ProfileCase, ProfileResult, Timing
from profiles.measuring.statistics import Speedup

_PARTS = ("gpu_compute_ms", "enqueue_ms", "h2d_ms", "d2h_ms")
_COLUMNS = (
    "batch",
    "length",
    "model",
    "artefact",
    "semantics",
    "median_ms",
    "median_low_ms",
    "median_high_ms",
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
    *_PARTS,
    "joules_per_call",
    "generated_tokens",
    "first_token_ms",
    "inter_token_ms",
    "tokens_per_s",
    "num_callers",
    "offered_per_s",
    "achieved_per_s",
    "overloaded",
    "partial",
)


def to_csv(result: ProfileResult) -> str:
    """Return a row for each model and case; the speed-up is in the row of the pruned model.

    Generated texts have rows of their own, with the speed-up of the tokens after the first. A
    figure that is withheld, or was not asked for, is an empty cell.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in [
        *_list_case_rows(result),
        *_list_generation_rows(result),
        *_list_load_rows(result),
    ]:
        what = _describe_model(result, str(row["model"]))
        writer.writerow({**row, **what, "partial": result.partial or ""})
    return text.getvalue()


def _list_case_rows(result: ProfileResult) -> Iterator[dict[str, object]]:
    for case in result.cases:
        yield {**_list_timing(case, case.dense), "model": "dense"}
        yield {
            **_list_timing(case, case.pruned),
            "model": "pruned",
            **_list_speedup(case.speedup),
        }


def _list_generation_rows(result: ProfileResult) -> Iterator[dict[str, object]]:
    for case in result.generations:
        for model, timing in (("dense", case.dense), ("pruned", case.pruned)):
            yield {
                "batch": case.batch,
                "length": case.prompt_length,
                "model": model,
                "num_samples": timing.first_token.num_samples,
                "stationary": case.stationary,
                "generated_tokens": case.num_tokens,
                "first_token_ms": timing.first_token.median_ms,
                "inter_token_ms": timing.inter_token.median_ms,
                "tokens_per_s": timing.tokens_per_s,
                **(_list_speedup(case.inter_token_speedup) if model == "pruned" else {}),
            }


def _list_load_rows(result: ProfileResult) -> Iterator[dict[str, object]]:
    for point in result.loads:
        yield {
            "batch": point.batch,
            "length": point.length,
            "model": point.model,
            "median_ms": point.median_ms,
            "p90_ms": point.p90_ms,
            "num_samples": point.num_requests,
            "num_callers": point.num_callers,
            "offered_per_s": point.offered_per_s,
            "achieved_per_s": point.achieved_per_s,
            "overloaded": point.overloaded,
        }


def _list_speedup(speedup: Speedup) -> dict[str, object]:
    return {
        "speedup": speedup.ratio,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "verdict": speedup.verdict,
    }


def _describe_model(result: ProfileResult, model: str) -> dict[str, object]:
    """Return what a row's model is, and what its milliseconds have in them."""
    described = result.method.get(model, result.method)
    artefact = result.method.get("artefacts", {}).get(model, {})
    return {
        "artefact": artefact.get("path", ""),
        "semantics": described.get("semantics", ""),
    }


def to_markdown(result: ProfileResult) -> str:
    """Return a table with a row for each case, where it was measured, and every note."""
    lines = [
        "| batch | length | dense ms | pruned ms | speed-up (95 %) | verdict |",
        "|---:|---:|---:|---:|---:|---|",
    ]
    notes = []
    for case in result.cases:
        doubt = "" if case.stationary else ", not stationary"
        lines.append(
            f"| {case.batch} | {case.length} | {case.dense.median_ms:.3f} | "
            f"{case.pruned.median_ms:.3f} | {_write_ratio(case.speedup)} | {case.verdict}{doubt} |"
        )
        notes += [f"- batch {case.batch} x {case.length}: {note}" for note in case.notes]
    lines += [*_write_generations(result), *_write_loads(result)]
    place = result.environment
    for model in ("dense", "pruned"):
        what = _describe_model(result, model)
        notes.append(f"- {model}: {what['artefact'] or 'a loaded model'}; {what['semantics']}")
    if result.partial:
        notes.insert(0, f"- **PARTIAL**: {result.partial}")
    lines += [
        "",
        f"Medians, in turns, on {place.get('cpu', 'an unknown processor')} with "
        f"{place.get('num_threads', 'an unknown number of')} threads, "
        f"{place.get('captured_at', 'undated')}.",
    ]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _write_generations(result: ProfileResult) -> list[str]:
    if not result.generations:
        return []
    lines = [
        "",
        "| batch | prompt | tokens | first token ms | speed-up | between tokens ms | speed-up |",
        "|---:|---:|---:|---|---|---|---|",
    ]
    for case in result.generations:
        waits = [
            f"{_write_wait(getattr(case.dense, kind))} -> {_write_wait(getattr(case.pruned, kind))}"
            f" | {_write_ratio(getattr(case, f'{kind}_speedup'))}"
            for kind in ("first_token", "inter_token")
        ]
        lines.append(
            f"| {case.batch} | {case.prompt_length} | {case.num_tokens} | {' | '.join(waits)} |"
        )
    notes = [
        f"- generate {case.num_tokens}, batch {case.batch} x {case.prompt_length}: {note}"
        for case in result.generations
        for note in case.notes
    ]
    return [*lines, *(["", *notes] if notes else [])]


def _write_loads(result: ProfileResult) -> list[str]:
    if not result.loads:
        return []
    rows = [
        f"| {point.model} | {point.num_callers} | "
        f"{'as answered' if point.offered_per_s is None else f'{point.offered_per_s:g}'} | "
        f"{point.achieved_per_s:.1f}{' (overloaded)' if point.overloaded else ''} | "
        f"{point.median_ms:.3f} | {'' if point.p90_ms is None else f'{point.p90_ms:.3f}'} |"
        for point in result.loads
    ]
    head = "| model | callers | requests per second | answers per second | median ms | p90 ms |"
    return ["", head, "|---|---:|---:|---:|---:|---:|", *rows]


def _write_wait(wait: TokenTiming) -> str:
    if wait.low_ms is None:
        return f"{wait.median_ms:.3f}"
    return f"{wait.median_ms:.3f} [{wait.low_ms:.3f}, {wait.high_ms:.3f}]"


def _write_ratio(speedup: Speedup) -> str:
    if speedup.low is None:
        return f"{speedup.ratio:.2f} ({speedup.note})"
    return f"{speedup.ratio:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]"


def _list_timing(case: ProfileCase, timing: Timing) -> dict[str, object]:
    return {
        "batch": case.batch,
        "length": case.length,
        "median_ms": timing.median_ms,
        "median_low_ms": timing.median_low_ms,
        "median_high_ms": timing.median_high_ms,
        "mean_ms": timing.mean_ms,
        "p90_ms": timing.p90_ms,
        "coefficient_of_variation": timing.coefficient_of_variation,
        "throughput_per_s": timing.throughput_per_s,
        "num_samples": timing.num_samples,
        "stationary": case.stationary,
        **{part: timing.parts[part].median_ms for part in _PARTS if part in timing.parts},
        **({"joules_per_call": timing.energy.joules_per_call} if timing.energy else {}),
    }
