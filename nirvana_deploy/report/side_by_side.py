"""Runs beside each other: their figures, the settings and the places that differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from nirvana_deploy.report.headline import hardware_phrase, interval_words
from nirvana_deploy.report.markup import Html, element, join, paragraph, table
from nirvana_deploy.report.numbers import (
    METRICS,
    MISSING,
    format_bytes,
    format_count,
    format_decimal,
    format_metric,
    format_milliseconds,
    format_percent,
    format_ratio,
    format_short,
    name_metric,
)
from nirvana_deploy.report.serving_results import CaseView, list_shapes
from nirvana_deploy.report.subject import Subject
from nirvana_deploy.report.training_results import Fidelity, ModelFigures, Prune

# Where a run is, and what it is called, always differ.
_NAMES = ("name", "out")
# Of a moment, not of a machine.
_MOMENTARY = ("load_average", "captured_at", "throttl", "other_cpu")
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")

_Cell = Callable[[Subject], str]


def draw_side_by_side(subjects: Sequence[Subject]) -> Html:
    """Draw all figures, a column a run; a figure that none has is left out."""
    all_rows = [(name, *map(cell, subjects)) for name, cell in _list_rows(subjects)]
    rows = [row for row in all_rows if set(row[1:]) != {MISSING}]
    if not rows:
        return paragraph("None of these holds figures of a pruned model.", class_="note")
    drawn = table("Figures of each run", ("", *_heads(subjects)), rows)
    sizes = {s.run.prune.dense.num_parameters for s in subjects if s.run.prune} - {None}
    if len(sizes) < 2:
        return drawn
    words = element("strong", "These were not pruned from one dense model.")
    note = element("p", words, " What is kept is of models of different sizes.", class_="absent")
    return join([note, drawn])


def draw_differing_settings(subjects: Sequence[Subject]) -> Html:
    """Draw the settings that are not the same in all runs of one kind that store some."""
    by_kind: dict[str, list[Subject]] = {}
    for subject in subjects:
        if subject.settings:
            by_kind.setdefault(subject.kind, []).append(subject)
    alike = {kind: told for kind, told in by_kind.items() if len(told) > 1}
    if not alike:
        words = "Settings are compared where two of one kind store them; fewer of these do."
        return paragraph(words, class_="note")
    return join(_draw_settings(kind, told) for kind, told in alike.items())


def _draw_settings(kind: str, told: Sequence[Subject]) -> Html:
    kept = [{k: v for k, v in s.settings.items() if k not in _NAMES} for s in told]
    rows = _differing(kept)
    if not rows:
        words = f"All settings that these store are the same ({kind})."
        return paragraph(words, class_="note")
    return table(f"Settings that differ ({kind})", ("Setting", *_heads(told)), rows)


def draw_differing_places(subjects: Sequence[Subject]) -> Html:
    """Draw what differs of the machines and versions, and warn where the hardware does."""
    told = [s for s in subjects if s.run.profile and s.run.profile.environment]
    if len(told) < 2:
        return paragraph("Fewer than two of these say where they were measured.", class_="note")
    places = [dict(_environment(subject)) for subject in told]
    rows = _differing(places)
    if not rows:
        words = "All were measured on the same hardware, with the same versions and threads."
        return paragraph(words, class_="note")
    drawn = table("Where the measurements were made", ("", *_heads(told)), rows)
    machines = {hardware_phrase(subject.run.profile) for subject in told}
    if len(machines) < 2:
        return drawn
    words = element("strong", "These were measured on different machines.")
    warning = element("p", words, " Their milliseconds do not compare.", class_="absent")
    return join([warning, drawn])


def _heads(subjects: Sequence[Subject]) -> list[Html]:
    return [join([f"{s.key} ", element("small", s.name)]) for s in subjects]


def _differing(columns: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    keys = dict.fromkeys(key for column in columns for key in column)
    # Of a hash this much is enough to see that it is another.
    rows = [
        (key, *(_HASH.sub(r"\1", column.get(key, MISSING)) for column in columns)) for key in keys
    ]
    return [row for row in rows if len(set(row[1:])) > 1]


def _environment(subject: Subject) -> Iterator[tuple[str, str]]:
    profile = subject.run.profile
    for path, value in profile.environment.flattened() if profile else ():
        if not any(word in path for word in _MOMENTARY):
            yield path.replace("_", " ").replace(".", " / "), value


def _list_rows(subjects: Sequence[Subject]) -> Iterator[tuple[str, _Cell]]:
    yield "Model", lambda s: (s.run.baseline.model if s.run.baseline else None) or MISSING
    yield from _quality_rows(subjects)
    yield "Asked to keep", _of_prune(lambda p: format_percent(p.budget.asked_kept_fraction, 2))
    yield "Kept", _of_prune(lambda p: format_percent(p.budget.kept_fraction, 2))
    yield "Counted in", _of_prune(lambda p: p.budget.cost or MISSING)
    yield "Parameters", _pair(lambda m: format_count(m.num_parameters))
    yield "Block MACs", _pair(lambda m: format_short(m.block_macs))
    yield "Weights size", _pair(lambda m: format_bytes(m.size_bytes))
    yield "ONNX size", _onnx_size
    cases = [case for s in subjects if s.run.profile for case in s.run.profile.cases]
    for shape in list_shapes(cases):
        yield f"Latency, {shape}, median", _of_case(shape, _latency)
        yield f"Speed-up, {shape}", _of_case(shape, _speedup)
        yield f"Throughput, {shape}", _of_case(shape, _throughput)


def _quality_rows(subjects: Sequence[Subject]) -> Iterator[tuple[str, _Cell]]:
    prunes = [subject.run.prune for subject in subjects if subject.run.prune]
    found = {name for prune in prunes for name in (*prune.dense.scores, *prune.pruned.scores)}
    for name in [*(n for n in METRICS if n in found), *sorted(found - set(METRICS))]:
        yield name_metric(name), _score_pair(name)
    yield "Validation loss", _pair(lambda m: format_decimal(m.loss))
    yield "Divergence from dense, held-out text", _of_prune(lambda p: _nats(p.held_out))
    yield "Divergence from dense, calibration text", _of_prune(lambda p: _nats(p.calibration))


def _nats(told: Fidelity) -> str:
    return MISSING if told.kl_divergence is None else f"{told.kl_divergence:.3g} nats"


def _score_pair(name: str) -> _Cell:
    return _pair(lambda model: format_metric(name, model.score(name)))


def _of_prune(write: Callable[[Prune], str]) -> _Cell:
    return lambda subject: write(subject.run.prune) if subject.run.prune else MISSING


def _pair(write: Callable[[ModelFigures], str]) -> _Cell:
    return _of_prune(lambda prune: _arrow(write(prune.dense), write(prune.pruned)))


def _arrow(dense: str, pruned: str) -> str:
    return MISSING if dense == pruned == MISSING else f"{dense} → {pruned}"


def _onnx_size(subject: Subject) -> str:
    export = subject.run.export
    if export is None:
        return MISSING
    return _arrow(format_bytes(export.dense.size_bytes), format_bytes(export.pruned.size_bytes))


def _of_case(shape: str, write: Callable[[CaseView], str]) -> _Cell:
    def cell(subject: Subject) -> str:
        cases = subject.run.profile.cases if subject.run.profile else ()
        return next((write(case) for case in cases if case.name_shape() == shape), MISSING)

    return cell


def _latency(case: CaseView) -> str:
    times = (format_milliseconds(t.median_ms) for t in (case.dense, case.pruned))
    return _arrow(*times)


def _speedup(case: CaseView) -> str:
    interval = interval_words(case.speedup)
    doubt = " not steady" if case.stationary is False else ""
    ratio = format_ratio(case.speedup.ratio)
    return ratio if ratio == MISSING else f"{ratio} {interval or ''}{doubt}".strip()


def _throughput(case: CaseView) -> str:
    rates = (case.dense.throughput_per_s, case.pruned.throughput_per_s)
    written = (MISSING if rate is None else f"{format_short(rate)}/s" for rate in rates)
    return _arrow(*written)
