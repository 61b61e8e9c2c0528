"""What generating text took: the time to the first token, and between the others."""

from __future__ import annotations

from collections.abc import Sequence

from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.markup import Html, element, join, table
from nirvana_deploy.report.numbers import (
    MISSING,
    TIMES,
    format_count,
    format_milliseconds,
    format_ratio,
    format_short,
)
from nirvana_deploy.report.serving_results import Profile

_HEADER = (
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
    return table("Generated text, medians with 95 % intervals", _HEADER, rows) if rows else Html()


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
