"""The page of several runs: what sets them apart, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nirvana_deploy.report.chart import draw_missing
from nirvana_deploy.report.document import draw_document, draw_footer
from nirvana_deploy.report.generation import draw_generations
from nirvana_deploy.report.headline import hardware_phrase
from nirvana_deploy.report.kept_chart import draw_kept
from nirvana_deploy.report.latency_charts import draw_latencies
from nirvana_deploy.report.markup import Html, element, folded, join, paragraph, section
from nirvana_deploy.report.measurements import draw_measurements
from nirvana_deploy.report.quality_chart import draw_quality
from nirvana_deploy.report.roofline_chart import Roof, draw_roofline
from nirvana_deploy.report.side_by_side import (
    draw_differing_places,
    draw_differing_settings,
    draw_side_by_side,
)
from nirvana_deploy.report.subject import Subject
from nirvana_deploy.report.throughput_charts import draw_throughput

_SOURCE = "the folders and files that it was drawn from"


def draw_compared(subjects: Sequence[Subject], roofs: Sequence[Roof] = ()) -> str:
    """Draw the whole document of several runs, or of one file that is no run."""
    named = ", ".join(subject.name for subject in subjects)
    are_runs = all(subject.run.prune and subject.kind != "plan" for subject in subjects)
    title = f"{len(subjects)} {'runs' if are_runs else 'results'} compared"
    title = title if len(subjects) > 1 else named
    header = element(
        "header",
        paragraph("nirvana-deploy", class_="brand"),
        element("h1", title),
        element("ul", *(_list_item(subject) for subject in subjects), class_="subjects"),
    )
    main = element("main", *_sections(subjects, roofs))
    return draw_document(f"{title} · {named}", join([header, main, draw_footer(_SOURCE)]))


def _list_item(subject: Subject) -> Html:
    profile = subject.run.profile
    when = next((s.started for s in subject.run.stages.values() if s.started), None)
    when = when or (profile.environment.text("captured_at") if profile else None)
    told = (f"{name} {value}" for name, value in subject.facts)
    partial = "PARTIAL: the measurement ended early" if profile and profile.partial else None
    facts = (subject.kind, partial, hardware_phrase(profile), when, *told)
    name = (element("strong", subject.key), " ", subject.name, " ") if subject.key else ()
    return element("li", *name, element("small", " · ".join(fact for fact in facts if fact)))


def _sections(subjects: Sequence[Subject], roofs: Sequence[Roof]) -> Iterator[Html]:
    if len(subjects) > 1:
        yield section("side-by-side", "Side by side", draw_side_by_side(subjects))
        yield section("settings", "Settings that differ", draw_differing_settings(subjects))
    yield section("quality", "Quality against latency", draw_quality(subjects))
    yield section("latency", "Latency", _draw_latency(subjects))
    yield section("throughput", "Throughput", draw_throughput(subjects))
    yield section("roofline", "Roofline", draw_roofline(subjects, roofs))
    yield section("kept", "What is kept", draw_kept(subjects))
    if len(subjects) > 1:
        yield section("environment", "Where it was measured", draw_differing_places(subjects))


def _draw_latency(subjects: Sequence[Subject]) -> Html:
    profiled = [(s, s.run.profile) for s in subjects if s.run.profile and s.run.profile.cases]
    if not profiled:
        return draw_missing(
            "No latency was measured in any of these.",
            "Measure two models against each other:",
            "nirvana profile DENSE PRUNED --out FILE.json",
        )
    charts = draw_latencies([(subject.key, profile.cases) for subject, profile in profiled])
    tables = (
        folded(f"{subject.key} {subject.name}: percentiles and doubts", draw_measurements(profile))
        for subject, profile in profiled
    )
    generated = draw_generations([(subject.key, profile) for subject, profile in profiled])
    return join([element("div", charts, class_="pair"), generated, *tables])
