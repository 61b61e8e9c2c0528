"""What a profile found, for a person to read: a row a figure. Plain data in, as it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pruning.strict_json import JsonMapping

# Beyond this share of the CPUs, other programs may have moved the ratio.
_BUSY = 0.1
# Stands beside the figure already.
_TOLD_BESIDE = "other programs took"


def describe_profile(profile: JsonMapping) -> Iterator[tuple[str, str]]:
    """Yield a row (what, value) for each measured case, and what generating took."""
    for case in profile["cases"]:
        doubt = _describe_doubt(case)
        yield (
            f"latency, batch {case['batch']} x {case['length']}",
            f"{case['dense']['median_ms']:.2f} ms -> {case['pruned']['median_ms']:.2f} ms, "
            f"{_describe_ratio(case['speedup'])}{doubt}",
        )
        yield from _describe_parts(case)
    yield from _describe_notes(profile["cases"])
    for case in profile.get("generations", ()):
        yield from _describe_generation(case)
    for point in profile.get("loads", ()):
        yield _describe_load(point)
    if profile.get("partial"):
        yield "PARTIAL", f"ended by: {profile['partial']}"


def _describe_ratio(speedup: Mapping[str, object]) -> str:
    """Write a ratio with its interval, or with the reason why it has none."""
    low, high = speedup["low"], speedup["high"]
    if low is None or high is None:
        return f"{speedup['ratio']:.2f}x ({speedup.get('note') or 'no interval'})"
    return f"{speedup['ratio']:.2f}x [{low:.2f}, {high:.2f}]"


def _describe_doubt(case: JsonMapping) -> str:
    """Write what a reader must know beside a figure: drift, no difference, a busy machine."""
    doubt = "" if case.get("stationary", True) else " (not stationary)"
    if case.get("verdict") == "no significant difference":
        doubt += " (no significant difference)"
    other = case.get("other_cpu_fraction") or 0
    busy = f" (other programs took {other:.0%} of the CPUs)"
    return doubt + busy if other > _BUSY else doubt


def _describe_notes(cases: Sequence[JsonMapping]) -> Iterator[tuple[str, str]]:
    """Yield each note once, with the cases that have it unless all have."""
    noted: dict[str, list[str]] = {}
    for case in cases:
        for note in case.get("notes", ()):
            noted.setdefault(note, []).append(f"batch {case['batch']} x {case['length']}")
    for note, where in noted.items():
        if not note.startswith(_TOLD_BESIDE):
            yield "note" if len(where) == len(cases) else f"note, {', '.join(where)}", note


def _describe_parts(case: JsonMapping) -> Iterator[tuple[str, str]]:
    """Yield where the time went on a GPU, and the energy."""
    for name in ("dense", "pruned"):
        parts, energy = case[name].get("parts") or {}, case[name].get("energy")
        if parts:
            told = (
                f"{part.removesuffix('_ms')} {of['median_ms']:.3f}" for part, of in parts.items()
            )
            yield f"  of that, {name}", f"{', '.join(told)} ms"
        if energy:
            yield (
                f"  energy, {name}",
                f"{energy['joules_per_call']:.3g} J a call, {energy['mean_watts']:.0f} W, "
                "idle included",
            )


def _describe_generation(case: JsonMapping) -> Iterator[tuple[str, str]]:
    shape = f"{case['num_tokens']} tokens, batch {case['batch']} x {case['prompt_length']}"
    doubt = _describe_doubt(case)
    for what, part in (("first token", "first_token"), ("between tokens", "inter_token")):
        dense, pruned = (case[name][part]["median_ms"] for name in ("dense", "pruned"))
        yield (
            f"{what}, {shape}",
            f"{dense:.2f} ms -> {pruned:.2f} ms, {_describe_ratio(case[f'{part}_speedup'])}{doubt}",
        )
    rates = (f"{case[name]['tokens_per_s']:.1f}" for name in ("dense", "pruned"))
    yield f"tokens a second, {shape}", " -> ".join(rates)


def _count_callers(num_callers: int) -> str:
    return f"{num_callers} caller{'' if num_callers == 1 else 's'}"


def _describe_load(point: JsonMapping) -> tuple[str, str]:
    offered = point["offered_per_s"]
    load = _count_callers(point["num_callers"]) if offered is None else f"{offered:g} requests/s"
    doubt = " OVERLOADED" if point["overloaded"] else ""
    p90 = "" if point["p90_ms"] is None else f", p90 {point['p90_ms']:.2f} ms"
    return (
        f"{point['model']} under {load}",
        f"{point['median_ms']:.2f} ms{p90}, {point['achieved_per_s']:.1f} answers/s{doubt}",
    )
