"""What generating text takes: the time to the first token, and between those after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from profiles.measuring.statistics import (
    NotNegative,
    Positive,
    Samples,
    Speedup,
    find_median_interval,
    take_percentile,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTiming:
    """Hold one kind of wait for a token, a sample for each text that was generated.

    Attributes:
        low_ms: lower end of the 95 % interval of the median (order statistics).
    """

    median_ms: NotNegative
    low_ms: NotNegative | None
    high_ms: NotNegative | None
    p90_ms: NotNegative | None
    p90_note: str | None
    num_samples: Positive
    samples_ms: tuple[NotNegative, ...]

    @classmethod
    def of(cls, samples_ms: Samples) -> TokenTiming:
        """Summarize samples in the order of time."""
        low_ms, high_ms = find_median_interval(samples_ms)
        p90_ms, p90_note = take_percentile(samples_ms, 90)
        return cls(
            median_ms=float(np.median(samples_ms)),
            low_ms=low_ms,
            high_ms=high_ms,
            p90_ms=p90_ms,
            p90_note=p90_note,
            num_samples=samples_ms.size,
            samples_ms=tuple(samples_ms.tolist()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationTiming:
    """Hold one model's waits for tokens.

    Attributes:
        first_token: from the prompt to the first token.
        inter_token: the mean of a text's gaps between tokens after the first.
        slowest_gap_ms: of all gaps of all texts.
        tokens_per_s: all rows, over whole texts, at the median.
    """

    first_token: TokenTiming
    inter_token: TokenTiming
    slowest_gap_ms: NotNegative
    tokens_per_s: NotNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationCase:
    """Hold both models at one batch size and prompt.

    Attributes:
        first_token_speedup: dense over pruned, with its interval; likewise the others.
        stationary: whether both were shown to be steady while they were measured.
        other_cpu_fraction: share of the CPUs that other programs took meanwhile; None: not known.
    """

    batch: Positive
    prompt_length: Positive
    num_tokens: Positive
    dense: GenerationTiming
    pruned: GenerationTiming
    first_token_speedup: Speedup
    inter_token_speedup: Speedup
    whole_speedup: Speedup
    stationary: bool
    other_cpu_fraction: NotNegative | None
    notes: tuple[str, ...]
