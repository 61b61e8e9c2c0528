"""One thing that a report is about: a run, a budget of a scoring run, or a file of figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.results import Run
from nirvana_deploy.report.serving_results import Profile, TimingView
from nirvana_deploy.report.training_results import Layer
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan


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
    timings: list[tuple[int | None, TimingView]] = [
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


_KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What `nirvana targets --plan FILE --json` estimated of one model on one target.

    Attributes:
        shares: of the time, by what it is spent waiting for.
    """

    model: str
    target: str | None
    precision: str | None
    shape: str
    latency_ms: float | None
    bound: str | None
    shares: tuple[tuple[str, float], ...]
    calibrated: bool

    @classmethod
    def read(cls, model: str, part: Fields) -> Estimate:
        """Read `dense` or `pruned` of one target."""
        shares = part.part("shares")
        found = ((name, shares.number(name)) for name in shares.names())
        sizes = ((name, part.count(name)) for name in ("batch", "length", "past"))
        return cls(
            model=model,
            target=part.text("target"),
            precision=part.text("precision"),
            shape=", ".join(f"{name} {size}" for name, size in sizes if size),
            latency_ms=part.number("latency_ms"),
            bound=part.text("bound"),
            shares=tuple((name, share) for name, share in found if share is not None),
            calibrated=bool(part.part("calibration")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is known of one run, budget or file; what it does not hold is empty.

    Attributes:
        key: a letter that stands for it in charts and tables; empty where it is the only one.
        kind: what it is, in words.
        settings: by dotted name, as text.
        facts: what it says of itself besides, in words.
    """

    key: str = ""
    name: str
    kind: str
    run: Run
    plan: PruningPlan | None = None
    sweeps: tuple[Sweep, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is kept, layer by layer."""
        return self.run.prune.layers if self.run.prune else ()

    @property
    def curves(self) -> tuple[Sweep, ...]:
        """The throughput that was measured, by a sweep or by a profile of several batch sizes."""
        return (*sweeps_of_profile(self.run.profile), *self.sweeps)


def give_keys(subjects: Sequence[Subject]) -> tuple[Subject, ...]:
    """Give each subject a letter; one alone needs none.

    Raises:
        NirvanaError: there are more of them than letters.
    """
    if len(subjects) > len(_KEYS):
        raise NirvanaError(
            f"A report compares at most {len(_KEYS)} runs, got {len(subjects)}. Give fewer."
        )
    if len(subjects) == 1:
        return tuple(subjects)
    keyed = zip(_KEYS, subjects, strict=False)
    return tuple(replace(subject, key=key) for key, subject in keyed)
