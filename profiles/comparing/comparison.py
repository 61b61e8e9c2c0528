"""Compares the latency of a dense and a pruned model, case by case."""

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from profiles.comparing.graph_form import GraphForm, list_differences, read_graph_form
from profiles.comparing.judgement import judge_case
from profiles.comparing.profile_config import ProfileConfig
from profiles.comparing.profile_result import ProfileCase, ProfileResult
from profiles.measuring.environment import capture_environment, count_allowed_cpus
from profiles.measuring.measurement import Clock, measure_in_turns
from profiles.measuring.other_work import find_other_fraction, read_cpu_time
from profiles.measuring.progress import OnProgress, draw_progress
from profiles.measuring.statistics import NUM_RESAMPLES, find_sample_floor
from profiles.measuring.throttling import judge_throttling, read_throttling
from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from profiles.runners.runner import Runner
from profiles.runners.token_inputs import make_token_inputs
from pruning.errors import NirvanaError

__all__ = ["ProfileResult", "compare_latency", "profile_onnx"]


def profile_onnx(
    dense_path: Path,
    pruned_path: Path,
    config: ProfileConfig,
    on_progress: OnProgress | None = None,
) -> ProfileResult:
    """Compare two ONNX models in ONNX Runtime on the CPU.

    Without `on_progress`, a bar is drawn on the standard error when that is a terminal.
    Raises MissingExtraError without ONNX Runtime, NirvanaError for a file that cannot be loaded or
    run, or two models that take different inputs.
    """
    forms = {"dense": read_graph_form(dense_path), "pruned": read_graph_form(pruned_path)}
    num_threads = config.num_threads or count_allowed_cpus()
    dense = OnnxRuntimeRunner(dense_path, name="dense", num_threads=num_threads)
    pruned = OnnxRuntimeRunner(pruned_path, name="pruned", num_threads=num_threads)
    with contextlib.nullcontext(on_progress) if on_progress else draw_progress() as watch:
        result = compare_latency(dense, pruned, config, on_progress=watch)
    differences = list_differences(forms["dense"], forms["pruned"])
    return ProfileResult(
        environment=result.environment,
        method={**result.method, "graphs": _describe_forms(forms, differences)},
        cases=tuple(replace(case, notes=(*case.notes, *differences)) for case in result.cases),
    )


def compare_latency(
    dense: Runner,
    pruned: Runner,
    config: ProfileConfig,
    *,
    clock: Clock = time.perf_counter,
    on_progress: OnProgress | None = None,
) -> ProfileResult:
    """Compare two loaded models on the same inputs, in turns. `clock` gives seconds."""
    _require_same_inputs(dense, pruned)
    environment = capture_environment(config.num_threads or count_allowed_cpus())
    before = read_throttling()
    cases = tuple(
        _compare_case(dense, pruned, batch, config, clock, on_progress)
        for batch in config.batch_sizes
    )
    throttled = judge_throttling(before, read_throttling())
    return ProfileResult(
        environment={
            **environment,
            "throttled_fraction": throttled.fraction,
            "throttling": throttled.describe(),
        },
        method=_describe_method(dense, pruned, config),
        cases=cases,
    )


def _compare_case(
    dense: Runner,
    pruned: Runner,
    batch: int,
    config: ProfileConfig,
    clock: Clock,
    on_progress: OnProgress | None,
) -> ProfileCase:
    label = f"batch {batch} x {config.length}"
    # Each has a cache of its own heads; all else is the same.
    dense_call, pruned_call = (
        runner.bind(
            make_token_inputs(
                runner.inputs,
                batch=batch,
                length=config.length,
                past=config.past,
                vocab_size=config.vocab_size,
                seed=config.seed,
            )
        )
        for runner in (dense, pruned)
    )
    calls = dense_call, pruned_call
    before = read_cpu_time()
    measured = measure_in_turns(
        *calls,
        config,
        draw=np.random.default_rng([config.seed, batch, config.length]),
        clock=clock,
        watch=lambda done: on_progress(label, done) if on_progress else None,
    )
    other_fraction = find_other_fraction(before, read_cpu_time())
    return judge_case(measured, batch, config, other_fraction)


def _require_same_inputs(dense: Runner, pruned: Runner) -> None:
    # A layer without attention takes no cache.
    taken = [
        {
            spec.name: str(spec.dtype)
            for spec in runner.inputs
            if not spec.name.startswith("past_key_values.")
        }
        for runner in (dense, pruned)
    ]
    if taken[0] != taken[1]:
        raise NirvanaError(
            f"{dense.name} and {pruned.name} must take the same inputs to be compared; they take "
            f"{_list_inputs(taken[0])} and {_list_inputs(taken[1])}. Export both the same way."
        )


def _list_inputs(inputs: dict[str, str]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in inputs.items()) or "none"


def _describe_method(dense: Runner, pruned: Runner, config: ProfileConfig) -> dict[str, Any]:
    described = {"dense": dense.describe(), "pruned": pruned.describe()}
    alike = described["dense"] == described["pruned"]
    return {
        **(described["dense"] if alike else described),
        "semantics": "ours: end to end from the caller, inputs and outputs bound in host memory",
        "order": "in turns: blocks of ABBA or BAAB, drawn at random",
        "first_run": "excluded",
        "inputs": "random token ids, no padding",
        "past_tokens": config.past,
        "warmup": f"at least {config.warmup_seconds:g} s, until the latency is steady",
        "min_samples": config.min_samples,
        "min_seconds": config.min_seconds,
        "max_seconds": config.max_seconds,
        "seed": config.seed,
        "p90_sample_floor": find_sample_floor(90),
        "throughput": "rows a second at the median latency",
        "interval": f"bootstrap of paired blocks in runs of neighbours, {NUM_RESAMPLES} resamples",
    }


def _describe_forms(forms: dict[str, GraphForm], differences: list[str]) -> dict[str, Any]:
    return {
        "same_form": not differences,
        "differences": differences,
        **{
            name: {"producer": form.producer, "opsets": form.opsets, "num_nodes": form.num_nodes}
            for name, form in forms.items()
        },
    }
