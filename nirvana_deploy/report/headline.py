"""The run in plain words: the sentence at the top, the verdict on the budget, what limits speed."""

from dataclasses import dataclass
from typing import Literal

from nirvana_deploy.report.fields import Fields
from nirvana_deploy.report.numbers import (
    divide,
    format_metric,
    format_metric_change,
    format_percent,
    format_ratio,
    name_metric,
    subtract,
)
from nirvana_deploy.report.results import Run
from nirvana_deploy.report.serving_results import CaseView, Profile, SpeedupView
from nirvana_deploy.report.training_results import Budget, Prune

_WORDS = {0.25: "A quarter of", 0.5: "Half", 0.75: "Three quarters of"}
_COSTS = {"macs": "MACs", "parameters": "parameters", "bytes": "bytes"}
_CPU_KEYS = ("cpu", "cpu_model", "cpu_name", "processor", "model_name", "gpu", "gpu_name", "device")
_THREAD_KEYS = ("num_threads", "threads", "intra_op_num_threads", "num_cpus")
# Kept fractions are sums of floats: a billionth is rounding, not overspending.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the budget was met, and the sentence that says by how much."""

    outcome: Literal["met", "under", "over", "unknown"]
    label: str
    sentence: str


def cost_name(budget: Budget) -> str:
    """Name what the budget counts."""
    return _COSTS.get(budget.cost or "", budget.cost or "cost")


def write_headline(run: Run) -> tuple[str, ...]:
    """Write the run's outcome as the clauses of one sentence, with only what was measured."""
    if run.prune is None:
        return ("Nothing was pruned in this run yet",)
    parts = [_kept_words(run.prune.budget), _quality_words(run.prune)]
    case = headline_case(run.profile)
    parts.append("speed not measured" if case is None else _speed_words(case))
    return tuple(parts)


def headline_case(profile: Profile | None) -> CaseView | None:
    """Take the largest batch measured, where arithmetic weighs most and overhead least."""
    measured = [case for case in profile.cases if case.speedup.ratio] if profile else []
    return max(measured, key=lambda case: (case.batch or 0) * (case.length or 1), default=None)


def hardware_phrase(profile: Profile | None) -> str | None:
    """Name the processor and its threads as the profile recorded them."""
    if profile is None:
        return None
    leaves = profile.environment.flattened()
    processor = _first_leaf(leaves, _CPU_KEYS)
    threads = _first_leaf(leaves, _THREAD_KEYS)
    counted = f"{threads} {'thread' if threads == '1' else 'threads'}" if threads else None
    return ", ".join(part for part in (processor, counted) if part) or None


def judge_budget(prune: Prune) -> Verdict:
    """Hold the kept fraction against the asked one, to within one prunable unit."""
    budget, unit = prune.budget, unit_fraction(prune)
    spare = subtract(budget.asked_kept_fraction, budget.kept_fraction)
    if spare is None:
        return Verdict(outcome="unknown", label="Not recorded", sentence="No budget is recorded.")
    distance = format_percent(abs(spare), 3)
    if spare < -_ROUNDING:
        return Verdict(
            outcome="over",
            label="Budget not met",
            sentence=f"More is kept than asked, by {distance} of the dense {cost_name(budget)}.",
        )
    if unit is None:
        met = f"The kept part is within the budget, {distance} below it."
        return Verdict(outcome="met", label="Budget met", sentence=met)
    exact = budget.unit_cost and budget.dense_cost
    one = f"one unit is {'' if exact else 'at most '}{format_percent(unit, 3)}"
    if spare <= unit + _ROUNDING:
        met = f"The kept part is {distance} below the budget; {one}."
        return Verdict(outcome="met", label="Budget met, within one unit", sentence=met)
    under = f"The kept part is {distance} below the budget, more than one unit; {one}."
    return Verdict(outcome="under", label="Below the budget", sentence=under)


def unit_fraction(prune: Prune) -> float | None:
    """Return the smallest unit's share of the dense cost as stored, or else a bound on it.

    The bound: all neurons together cost at most the whole, so one costs at most 1 / their count.
    """
    stored = divide(prune.budget.unit_cost, prune.budget.dense_cost)
    return stored or divide(1.0, sum(layer.num_neurons for layer in prune.layers))


def explain_speed(run: Run) -> str | None:
    """Say how much of the MAC ratio arrived as measured speed, where less did."""
    case = headline_case(run.profile)
    if case is None or case.speedup.ratio is None or run.prune is None:
        return None
    macs = divide(run.prune.dense.block_macs, run.prune.pruned.block_macs)
    if macs is None or macs <= case.speedup.ratio:
        return None
    head = "classification head" if run.prune.metric == "accuracy" else "head"
    return (
        f"The blocks do {format_ratio(macs)} less arithmetic; the measured speed-up at "
        f"{case.name_shape()} is {format_ratio(case.speedup.ratio)}. Embedding "
        f"look-ups, layer norms, residual additions, the {head} and the run-time's "
        "cost per operation do not shrink with heads and neurons, and smaller matrix products "
        "keep the processor less busy."
    )


def interval_words(speedup: SpeedupView) -> str | None:
    """Write the confidence interval of a speed-up."""
    if speedup.low is None or speedup.high is None:
        return None
    return f"[{speedup.low:.2f}, {speedup.high:.2f}]"


def _kept_words(budget: Budget) -> str:
    kept = budget.kept_fraction
    if kept is None:
        return "Pruned"
    near = (words for fraction, words in _WORDS.items() if abs(kept - fraction) < 0.0005)
    return f"{next(near, f'{format_percent(kept)} of')} the block {cost_name(budget)}"


def _quality_words(prune: Prune) -> str:
    dense, pruned = prune.dense.score(prune.metric), prune.pruned.score(prune.metric)
    name = name_metric(prune.metric, capital=False)
    if dense is None or pruned is None:
        return f"{name} not recorded"
    change = format_metric_change(prune.metric, dense, pruned)
    before, after = (format_metric(prune.metric, value) for value in (dense, pruned))
    return f"{name} {before} → {after} ({change})"


def _speed_words(case: CaseView) -> str:
    speedup = case.speedup
    ratio = speedup.ratio or 1.0
    if ratio < 1:
        speedup = _invert(speedup)
    interval = interval_words(speedup)
    at_batch = f"at batch {'?' if case.batch is None else case.batch}"
    at_batch += f" {interval}" if interval else ""
    at_batch += " (still moving when measured)" if case.stationary is False else ""
    if speedup.low is not None and speedup.high is not None and speedup.low <= 1 <= speedup.high:
        return f"no speed-up that stands out from noise {at_batch}"
    if ratio < 1:
        return f"{format_ratio(speedup.ratio)} slower {at_batch}"
    return f"{format_ratio(ratio)} faster {at_batch}"


def _invert(speedup: SpeedupView) -> SpeedupView:
    """Turn a speed-up into the slow-down that it is, with its interval the other way round."""
    return SpeedupView(
        ratio=divide(1.0, speedup.ratio),
        low=divide(1.0, speedup.high),
        high=divide(1.0, speedup.low),
        confidence=speedup.confidence,
    )


def _first_leaf(leaves: tuple[tuple[str, str], ...], keys: tuple[str, ...]) -> str | None:
    by_key = {path.rsplit(".", 1)[-1]: value for path, value in reversed(leaves)}
    return next((by_key[key] for key in keys if by_key.get(key, "not known") != "not known"), None)


def environment_rows(environment: Fields) -> list[tuple[str, str]]:
    """List the environment as (words, value)."""
    return [(path.replace("_", " ").replace(".", " / "), v) for path, v in environment.flattened()]
