"""Turns samples into a case's figures, with notes on all that should make a reader doubt them."""

from profiles.comparing.profile_result import ProfileCase, Timing
from profiles.measuring.measure_config import ProfileConfig
from profiles.measuring.measurement import Measurement
from profiles.measuring.nvml import EnergyReading
from profiles.measuring.statistics import (
    MIN_SAMPLES_FOR_DRIFT,
    Samples,
    Speedup,
    estimate_speedup,
    find_drift,
)

# trtexec's threshold of an unstable run.
_MAX_VARIATION = 0.025
_MAX_OTHER_FRACTION = 0.05
# From here on, the samples tell of the other programs of that moment as much as of the models.
_BUSY_FRACTION = 0.25
# A common drift falls on both models alike; a large one means that neither was warm.
_MAX_COMMON_DRIFT = 0.1
# A tenth of a microsecond: finer digits are noise, and fill the manifest.
_MS_DIGITS = 4


def judge_case(
    measured: Measurement,
    batch: int,
    config: ProfileConfig,
    other_fraction: float | None,
    energies: tuple[EnergyReading | None, EnergyReading | None] = (None, None),
) -> ProfileCase:
    """Make the figures of one case; `other_fraction` is what other programs took of the CPUs."""
    # All figures are made of the rounded samples, so that a reader can make them again.
    blocks = [measured.dense_ms.round(_MS_DIGITS), measured.pruned_ms.round(_MS_DIGITS)]
    dense, pruned = (
        Timing.of(samples.ravel(), batch=batch, parts_ms=parts_ms, energy=energy)
        for samples, parts_ms, energy in zip(blocks, measured.parts_ms, energies, strict=True)
    )
    speedup = estimate_ratio(blocks[0], blocks[1], other_fraction, seed=config.seed)
    unsteady = _note_drift("dense", blocks[0]) + _note_drift("pruned", blocks[1])
    if not measured.warmup_steady:
        unsteady.append(
            f"the warm-up ended after {measured.warmup_seconds:.1f} s without a steady latency"
        )
    notes = [*unsteady, *_note_spread("dense", dense), *_note_spread("pruned", pruned)]
    notes += [*_note_enqueue("dense", dense), *_note_enqueue("pruned", pruned)]
    if measured.failure is not None:
        notes.append(f"PARTIAL, {dense.num_samples} samples a model: {measured.failure}")
    elif not measured.complete:
        notes.append(
            f"max_seconds ({config.max_seconds:g}) ended the case after "
            f"{dense.num_samples} samples a model"
        )
    if speedup.note:
        notes.append(speedup.note)
    if other_fraction is not None and other_fraction > _MAX_OTHER_FRACTION:
        notes.append(f"other programs took {other_fraction:.0%} of the CPUs meanwhile")
    return ProfileCase(
        batch=batch,
        length=config.length,
        dense=dense,
        pruned=pruned,
        speedup=speedup,
        stationary=not unsteady,
        warmup_seconds=round(measured.warmup_seconds, 3),
        measured_seconds=round(measured.measured_seconds, 3),
        other_cpu_fraction=None if other_fraction is None else round(other_fraction, 4),
        notes=tuple(notes),
    )


def estimate_ratio(
    dense_blocks: Samples, pruned_blocks: Samples, other_fraction: float | None, *, seed: int
) -> Speedup:
    """Estimate a speed-up, without an interval where the samples cannot carry one.

    Resampling takes the samples for draws from one distribution. They are not where the ratio or a
    model's latency was still moving, or where other programs took more than a quarter of the CPUs:
    such an interval is far too narrow, and the next run falls outside of it.

    Args:
        dense_blocks: Milliseconds, [num_blocks, 2], in the order of time; row i of both arrays was
            measured side by side.
        other_fraction: The share of the CPUs that other programs took; None where unknown.
    """
    speedup = estimate_speedup(dense_blocks, pruned_blocks, seed=seed)
    if speedup.low is None:
        return speedup
    moved = find_drift(dense_blocks.mean(axis=1) / pruned_blocks.mean(axis=1))
    if moved is not None:
        return speedup.withhold(f"no interval: the ratio moved by {moved:+.0%} meanwhile")
    for name, blocks in (("dense", dense_blocks), ("pruned", pruned_blocks)):
        drift = find_drift(blocks.ravel())
        if drift is not None and abs(drift) > _MAX_COMMON_DRIFT:
            return speedup.withhold(f"no interval: {name} moved by {drift:+.0%} meanwhile")
    if other_fraction is not None and other_fraction > _BUSY_FRACTION:
        return speedup.withhold(
            f"no interval: other programs took {other_fraction:.0%} of the CPUs"
        )
    return speedup


def _note_drift(name: str, blocks: Samples) -> list[str]:
    if blocks.size < MIN_SAMPLES_FOR_DRIFT:
        return [
            f"{blocks.size} samples of {name} are too few to show that it was steady; it takes "
            f"{MIN_SAMPLES_FOR_DRIFT}"
        ]
    change = find_drift(blocks.ravel())
    if change is None:
        return []
    return [f"{name} latency moved by {change:+.1%} from the first to the last third"]


def _note_enqueue(name: str, timing: Timing) -> list[str]:
    """Warn as trtexec does, where the host cannot launch as fast as the GPU runs."""
    enqueue, compute = (timing.parts.get(part) for part in ("enqueue_ms", "gpu_compute_ms"))
    if enqueue is None or compute is None or enqueue.median_ms < compute.median_ms:
        return []
    return [
        f"{name} is bound by its launches: enqueue takes {enqueue.median_ms:.3f} ms, the GPU "
        f"{compute.median_ms:.3f} ms; a CUDA graph may help"
    ]


def _note_spread(name: str, timing: Timing) -> list[str]:
    if timing.coefficient_of_variation <= _MAX_VARIATION:
        return []
    return [f"{name} latency varies by {timing.coefficient_of_variation:.1%} (over 2.5%)"]
