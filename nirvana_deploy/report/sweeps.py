"""Throughput by batch size and by callers at a time: how a sweep is kept as JSON, and read again.

{"model": "pruned", "length": 128,
 "batches": [{"batch": 1, "median_ms": 22.1, "rows_per_s": 45.2, "num_samples": 32}],
 "callers": [{"num_callers": 2, "achieved_per_s": 61.0, "median_ms": 32.5}]}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.serving_results import Profile, Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputPoint:
    """How much is answered a second at one load.

    Attributes:
        load: rows of a batch, or callers at a time.
        per_s: rows, or answers.
    """

    load: int
    per_s: float
    median_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One model's curves at one length; `model` is "dense", "pruned" or a name of its own."""

    model: str
    length: int | None
    batches: tuple[ThroughputPoint, ...]
    callers: tuple[ThroughputPoint, ...] = ()

    @classmethod
    def read(cls, part: Fields) -> Sweep:
        """Read one sweep; a point without its load or its rate is left out."""
        return cls(
            model=part.text("model") or "model",
            length=part.count("length"),
            batches=_list_points(part.rows("batches"), "batch", "rows_per_s"),
            callers=_list_points(part.rows("callers"), "num_callers", "achieved_per_s"),
        )


def sweeps_of_profile(profile: Profile | None) -> tuple[Sweep, ...]:
    """Return the curves of both models that a profile holds, one for each length."""
    if profile is None:
        return ()
    measured = [*(case.length for case in profile.cases)]
    measured += [point.count("length") for point in profile.loads]
    curves = [
        Sweep(
            model=model,
            length=length,
            batches=_points_of(profile, length, model),
            callers=_callers_of(profile, length, model),
        )
        for length in dict.fromkeys(measured)
        for model in ("dense", "pruned")
    ]
    return tuple(curve for curve in curves if curve.batches or curve.callers)


def _callers_of(profile: Profile, length: int | None, model: str) -> tuple[ThroughputPoint, ...]:
    """Return the closed loops; where requests come at random, a load is no number of callers."""
    closed = [
        point
        for point in profile.loads
        if point.text("model") == model
        and point.count("length") == length
        and point.number("offered_per_s") is None
    ]
    return _list_points(closed, "num_callers", "achieved_per_s")


def _points_of(profile: Profile, length: int | None, model: str) -> tuple[ThroughputPoint, ...]:
    timings: list[tuple[int | None, Timing]] = [
        (case.batch, case.dense if model == "dense" else case.pruned)
        for case in profile.cases
        if case.length == length
    ]
    points = [
        ThroughputPoint(load=batch, per_s=timing.throughput_per_s, median_ms=timing.median_ms)
        for batch, timing in timings
        if batch is not None and timing.throughput_per_s is not None
    ]
    return tuple(sorted(points, key=lambda point: point.load))


def _list_points(rows: Iterable[Fields], load: str, rate: str) -> tuple[ThroughputPoint, ...]:
    found = ((row.count(load), row.number(rate), row) for row in rows)
    points = [
        ThroughputPoint(load=count, per_s=per_s, median_ms=row.number("median_ms"))
        for count, per_s, row in found
        if count is not None and per_s is not None
    ]
    return tuple(sorted(points, key=lambda point: point.load))
