"""One thing that a report is about: a run, a budget of a scoring run, or a file of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.results import Run
from nirvana_deploy.report.sweeps import Sweep, sweeps_of_profile
from nirvana_deploy.report.training_results import Layer
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan

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
