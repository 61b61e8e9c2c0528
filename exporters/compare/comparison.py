"""Compares two artifacts on all cases, and says where they part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from exporters.compare.artefact import Array, Artefact
from exporters.compare.case_run import Observation, run_case
from exporters.compare.cases import Case, list_cases, make_tokens
from exporters.compare.compare_config import CompareConfig, Gates, choose_gates
from exporters.compare.difference import Difference, OutputDifference, keep_live, measure_difference
from exporters.compare.divergence import Divergence, find_divergence
from pruning.errors import NirvanaError
from pruning.progress import CountProgress

# Called with the number of cases that are done, and of all.


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseDifference:
    """What one call of one case gave on both sides; `what` is as in `Observation`."""

    case: Case
    what: str
    difference: Difference

    def describe(self) -> str:
        """Name the call in messages."""
        return f"{self.case.describe()}, {self.what}"

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        found = self.difference
        return {
            **asdict(self.case),
            "padded": self.case.padding != "none",
            "what": self.what,
            "max_abs_difference": found.max_abs,
            "relative_difference": found.scaled,
            "worst_difference": found.worst.gap,
            "scale": found.worst.scale,
            "largest": found.largest,
            "kl": found.kl,
            "agreement": found.agreement,
            "num_rows": found.num_rows,
            "output": found.output,
            "outputs": [
                {**asdict(output), "relative_difference": output.scaled} for output in found.outputs
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How two artifacts compare.

    Attributes:
        notes: how the artifacts were run, where that is not as they are.
        not_compared: outputs that only one of them has, and caches that they lay out differently.
        failures: what a gate does not let pass, in words; empty when all is well.
        divergence: None when nothing failed.
    """

    source: str
    candidate: str
    gates: Gates
    cases: tuple[CaseDifference, ...]
    not_compared: tuple[str, ...]
    notes: tuple[str, ...]
    failures: tuple[str, ...]
    divergence: Divergence | None

    @property
    def passed(self) -> bool:
        """Return whether every gate was kept."""
        return not self.failures

    @property
    def worst(self) -> CaseDifference:
        """The call with the largest difference, as a tolerance sees it."""
        return _find_worst(self.cases)

    @property
    def max_abs_difference(self) -> float:
        """The largest absolute difference of all cases."""
        return max(case.difference.max_abs for case in self.cases)

    @property
    def max_kl(self) -> float | None:
        """The largest mean divergence of an output in a case, in nats; None without logits."""
        return _max_kl(self.cases)

    @property
    def agreement(self) -> float | None:
        """Fraction of equal predictions over all cases, of the output with the lowest."""
        return min(_agreements(self.cases).values(), default=None)

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values, for a manifest."""
        return {
            "source": self.source,
            "candidate": self.candidate,
            "passed": self.passed,
            "gates": self.gates.to_json(),
            "tolerance": self.gates.tolerance * self.worst.difference.worst.scale,
            "max_abs_difference": self.max_abs_difference,
            "max_relative_difference": self.worst.difference.scaled,
            "max_kl": self.max_kl,
            "agreement": self.agreement,
            "worst_case": self.worst.describe(),
            "notes": list(self.notes),
            "not_compared": list(self.not_compared),
            "failures": list(self.failures),
            "first_divergence": self.divergence.to_json() if self.divergence else None,
            "cases": [case.to_json() for case in self.cases],
        }


def compare_artefacts(
    source: Artefact,
    candidate: Artefact,
    config: CompareConfig | None = None,
    *,
    progress: CountProgress | None = None,
) -> Comparison:
    """Run both on the same tokens, and hold what comes against the gates.

    Padded left and right, shapes other than a trace's, decode steps with a cache of each side's
    own; or the corners of an optimization profile. Where a gate fails, the worst call is looked
    into block by block.

    Raises:
        NirvanaError: the two have no output in common, or one cannot run a case.
    """
    config = config or CompareConfig()
    gates = choose_gates((source.precision, candidate.precision), config)
    cases = list_cases((source, candidate), config)
    found: list[CaseDifference] = []
    worst: tuple[Observation, Observation] | None = None
    largest, alone = -1.0, set[str]()
    for number, case in enumerate(cases):
        for calls in _run_both(source, candidate, case, config):
            compared, not_compared = _compare_calls(case, calls, (source, candidate), gates)
            found.append(compared)
            alone |= not_compared
            if found[-1].difference.scaled > largest:  # of the others nothing is kept
                worst, largest = calls, found[-1].difference.scaled
        if progress is not None:
            progress(number + 1, len(cases))
    assert worst is not None
    failures = tuple(_list_failures(gates, found))
    divergence = find_divergence(source, candidate, worst, gates.tolerance) if failures else None
    return Comparison(
        source=source.name,
        candidate=candidate.name,
        gates=gates,
        cases=tuple(found),
        not_compared=tuple(sorted(alone)),
        notes=(*source.notes, *candidate.notes),
        failures=failures,
        divergence=divergence,
    )


def _run_both(
    source: Artefact, candidate: Artefact, case: Case, config: CompareConfig
) -> Iterator[tuple[Observation, Observation]]:
    tokens = make_tokens(case, (source, candidate), config)
    sides = [run_case(artefact, case, tokens) for artefact in (source, candidate)]
    if [left.what for left in sides[0]] != [right.what for right in sides[1]]:
        raise NirvanaError(
            f"{source.name} ({', '.join(source.graphs)}) and {candidate.name} "
            f"({', '.join(candidate.graphs)}) are not two forms of one model: one gives "
            f"{', '.join(o.what for o in sides[0])}, the other "
            f"{', '.join(o.what for o in sides[1])}."
        )
    yield from zip(*sides, strict=True)


def _compare_calls(
    case: Case,
    calls: tuple[Observation, Observation],
    sides: tuple[Artefact, Artefact],
    gates: Gates,
) -> tuple[CaseDifference, set[str]]:
    """Compare each output and each tensor of the cache; name also what cannot be compared."""
    left, right = calls
    if not set(left.outputs) & set(right.outputs):
        raise NirvanaError(
            f"{sides[0].name} gives {', '.join(left.outputs)}, {sides[1].name} gives "
            f"{', '.join(right.outputs)}: there is nothing to compare. Export both for one task."
        )
    for name in left.outputs.keys() & right.outputs.keys():
        shapes = [list(side.outputs[name].shape) for side in calls]
        if shapes[0] != shapes[1]:
            raise NirvanaError(
                f"{sides[0].name} gives {name} of shape {shapes[0]}, {sides[1].name} of shape "
                f"{shapes[1]}: they are not two forms of one model."
            )
    scale = {"smallest_scale": gates.smallest_scale, "outlier_share": gates.outlier_share}
    outputs = measure_difference(left.outputs, right.outputs, left.live, tie=gates.tie, **scale)
    caches = [_live_cache(side) for side in calls]
    alike = {
        name
        for name in caches[0].keys() & caches[1].keys()
        if caches[0][name].shape == caches[1][name].shape
    }
    kept = {name: value for name, value in caches[0].items() if name in alike}
    cached = measure_difference(kept, caches[1], None, **scale)
    difference = Difference(outputs=(*outputs.outputs, *cached.outputs))
    alone = set(left.outputs) ^ set(right.outputs) | (set(caches[0]) | set(caches[1])) - alike
    return CaseDifference(case=case, what=left.what, difference=difference), alone


def _live_cache(call: Observation) -> dict[str, Array]:
    """Return the live positions of each tensor of a cache, [tokens, heads, width]."""
    found = {}
    for name, cache in call.cache.items():
        live = call.encoder_live if ".encoder." in name else call.cache_live
        if ".decoder." in name or cache.ndim != 4:
            live = None
        by_token = np.moveaxis(cache, 2, 1) if cache.ndim == 4 else cache
        found[name] = keep_live(by_token, live)
    return found


def _list_failures(gates: Gates, cases: Sequence[CaseDifference]) -> Iterator[str]:
    """Yield a line for each gate and output that fails; what is not a number fails too."""
    for worst in _worst_by_output(cases).values():
        if not worst.scaled <= gates.tolerance:
            of = f" of values up to {worst.largest:.3g}" if worst.largest > 1 else ""
            yield (
                f"{worst.output} differs by {worst.gap:.2e}{of}, at most "
                f"{gates.tolerance * worst.scale:.1e} was expected ({gates.precision})"
            )
    kl = _max_kl(cases)
    if kl is not None and not kl <= gates.max_kl:
        yield f"the predictions diverge by {kl:.2e} nats, at most {gates.max_kl:.1e} was expected"
    for output, agreement in _agreements(cases).items():
        if not agreement >= gates.min_agreement:
            yield (
                f"{_percent(agreement)} of the predictions are the same in {output}, at least "
                f"{gates.min_agreement:.0%} was expected"
            )


def _percent(fraction: float) -> str:
    """Write a fraction so that one below 1 never reads 100 %."""
    return f"{fraction:.1%}" if fraction < 0.9995 or fraction == 1 else f"{fraction:.6%}"


def _worst_by_output(cases: Sequence[CaseDifference]) -> dict[str, OutputDifference]:
    """Return the worst call of each output, the worst output first."""
    found: dict[str, OutputDifference] = {}
    for case in cases:
        for output in case.difference.outputs:
            known = found.get(output.output)
            if known is None or output.scaled > known.scaled:
                found[output.output] = output
    return dict(sorted(found.items(), key=lambda item: -item[1].scaled))


def _find_worst(cases: Sequence[CaseDifference]) -> CaseDifference:
    return max(cases, key=lambda case: case.difference.scaled)


def _max_kl(cases: Sequence[CaseDifference]) -> float | None:
    found = [case.difference.kl for case in cases if case.difference.kl is not None]
    return max(found, default=None)


def _agreements(cases: Sequence[CaseDifference]) -> dict[str, float]:
    """Return the fraction of equal predictions over all cases, by output."""
    counts: dict[str, tuple[float, int]] = {}
    for case in cases:
        for found in case.difference.outputs:
            if found.agreement is not None:
                same, rows = counts.get(found.output, (0.0, 0))
                same += found.num_rows * found.agreement
                counts[found.output] = same, rows + found.num_rows
    return {output: same / rows for output, (same, rows) in counts.items()}
