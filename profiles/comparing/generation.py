"""Compares how two decoders generate: the time to the first token, and between the others.

A text is generated as a whole by each in turns, greedily and to its full length, from a prompt of
random tokens; a sample is a text.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from profiles.comparing.generation_result import GenerationCase, GenerationTiming, TokenTiming
from profiles.comparing.judgement import estimate_ratio, judge_case
from profiles.measuring.measure_config import ProfileConfig
from profiles.measuring.measurement import (
    Clock,
    Measurement,
    describe_failure,
    measure_in_turns,
)
from profiles.measuring.statistics import Samples
from profiles.measuring.throttling import find_other_fraction, read_cpu_time
from profiles.runners.runner import Ids, Runner, Stepper, Tensors, open_stepper
from pruning.progress import Progress, name_progress

FIRST, BETWEEN, SLOWEST = "first_token_ms", "inter_token_ms", "slowest_gap_ms"
_MS_DIGITS = 4


class GenerationCall:
    """Generates a text each time it is called, and keeps when its tokens came."""

    def __init__(self, stepper: Stepper, prompt_BS: Ids, num_tokens: int, clock: Clock) -> None:
        self._stepper, self._prompt_BS = stepper, prompt_BS
        self._num_tokens, self._clock = num_tokens, clock
        self._came_at: list[float] = []

    def __call__(self) -> Tensors:
        """Generate, from an empty cache; return the tokens, [batch, num_tokens]."""
        stepper, clock = self._stepper, self._clock
        came_at = [clock()]
        stepper.start(len(self._prompt_BS))
        ids, found = self._prompt_BS, []
        for _ in range(self._num_tokens):
            ids = stepper.step(ids)
            came_at.append(clock())
            found.append(ids)
        self._came_at = came_at
        return {"tokens": np.concatenate(found, axis=1)}

    def read_parts(self) -> Mapping[str, float]:
        """Return the waits for tokens of the last text, in milliseconds."""
        first, *gaps = np.diff(self._came_at) * 1000
        return {FIRST: float(first), BETWEEN: float(np.mean(gaps)), SLOWEST: float(np.max(gaps))}


def compare_generation(
    dense: Runner,
    pruned: Runner,
    config: ProfileConfig,
    *,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> tuple[tuple[GenerationCase, ...], str | None]:
    """Let both generate `config.generate` tokens; return the cases, and what ended them early.

    Raises NirvanaError for a model that does not generate.
    """
    steppers = open_stepper(dense), open_stepper(pruned)
    cases: list[GenerationCase] = []
    for batch in config.batch_sizes:
        label = f"generate {config.generate}, batch {batch} x {config.length}"
        try:
            case, failure = _compare_case(steppers, batch, config, clock, label, progress)
        except Exception as error:  # each run-time has errors of its own for a device
            if not cases:
                raise
            return tuple(cases), f"{label}, before a first text: {describe_failure(error)}"
        cases.append(case)
        if failure is not None:
            return tuple(cases), f"{label}: {failure}"
    return tuple(cases), None


def _compare_case(
    steppers: tuple[Stepper, Stepper],
    batch: int,
    config: ProfileConfig,
    clock: Clock,
    label: str,
    progress: Progress | None,
) -> tuple[GenerationCase, str | None]:
    draw = np.random.default_rng([config.seed, batch, config.length])
    prompt_BS = draw.integers(0, config.num_ids, (batch, config.length))
    dense, pruned = (
        GenerationCall(stepper, prompt_BS, config.generate, clock) for stepper in steppers
    )
    before = read_cpu_time()
    measured = measure_in_turns(
        dense,
        pruned,
        config,
        draw=draw,
        clock=clock,
        progress=name_progress(progress, label),
    )
    other_fraction = find_other_fraction(before, read_cpu_time())
    return _judge(measured, batch, config, other_fraction), measured.failure


def _judge(
    measured: Measurement, batch: int, config: ProfileConfig, other_fraction: float | None
) -> GenerationCase:
    whole = judge_case(measured, batch, config, other_fraction)
    parts = [
        {part: samples.round(_MS_DIGITS) for part, samples in of_model.items()}
        for of_model in measured.parts_ms
    ]
    ratios = [
        estimate_ratio(
            parts[0][part].reshape(-1, 2),
            parts[1][part].reshape(-1, 2),
            other_fraction,
            seed=config.seed,
        )
        for part in (FIRST, BETWEEN)
    ]
    num_tokens = batch * config.generate
    dense, pruned = (
        _summarise(of_model, tokens_per_s=num_tokens * 1000 / timing.median_ms)
        for of_model, timing in zip(parts, (whole.dense, whole.pruned), strict=True)
    )
    return GenerationCase(
        batch=batch,
        prompt_length=config.length,
        num_tokens=config.generate,
        dense=dense,
        pruned=pruned,
        first_token_speedup=ratios[0],
        inter_token_speedup=ratios[1],
        whole_speedup=whole.speedup,
        stationary=whole.stationary,
        other_cpu_fraction=whole.other_cpu_fraction,
        notes=whole.notes,
    )


def _summarise(parts: Mapping[str, Samples], *, tokens_per_s: float) -> GenerationTiming:
    return GenerationTiming(
        first_token=TokenTiming.of(parts[FIRST]),
        inter_token=TokenTiming.of(parts[BETWEEN]),
        slowest_gap_ms=float(parts[SLOWEST].max()),
        tokens_per_s=tokens_per_s,
    )
