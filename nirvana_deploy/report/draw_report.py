"""Draws one page of all that was given: runs, budgets, profiles, sweeps, plans, estimates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nirvana_deploy.report.chart import draw_missing
from nirvana_deploy.report.headline import hardware_phrase
from nirvana_deploy.report.kept_chart import draw_kept
from nirvana_deploy.report.latency_charts import draw_latencies, draw_measurements
from nirvana_deploy.report.markup import (
    Html,
    draw_document,
    draw_footer,
    element,
    folded,
    is_page,
    join,
    paragraph,
    section,
)
from nirvana_deploy.report.page import draw_page
from nirvana_deploy.report.quality_chart import draw_quality
from nirvana_deploy.report.read_subjects import read_subjects
from nirvana_deploy.report.roofline_chart import Roof, draw_roofline
from nirvana_deploy.report.side_by_side import (
    draw_differing_places,
    draw_differing_settings,
    draw_side_by_side,
)
from nirvana_deploy.report.subject import Subject
from nirvana_deploy.report.throughput_charts import draw_generations, draw_throughput
from profiles.targets.block_work import CallShape
from profiles.targets.target import load_target
from pruning.errors import NirvanaError
from pruning.write_aside import write_text

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


_HTML = (".html", ".htm")


def write_compared(
    paths: Sequence[Path],
    out: Path,
    *,
    targets: Sequence[str] = (),
    precision: str | None = None,
    call: CallShape | None = None,
) -> Path:
    """Draw what the paths hold into the file `out`, and return it; a run alone gets its own page.

    Raises:
        NirvanaError: a path is none of what can be drawn; a target is not known or has no rate for
            the precision; or `out` is a file of something else.
    """
    check_out(out)
    if not paths:
        raise NirvanaError("A report needs a run folder or a file of figures, got none.")
    roofs = [
        _raise_roof(name, precision, call or CallShape(batch=1, length=128)) for name in targets
    ]
    subjects = read_subjects(paths)
    alone = len(subjects) == 1 and subjects[0].kind == "run"
    page = draw_page(subjects[0], roofs) if alone else draw_compared(subjects, roofs)
    write_text(out, page)
    return out


def check_out(out: Path) -> None:
    """Raise NirvanaError unless `out` names an HTML file that is new or was drawn by us."""
    if out.suffix not in _HTML:
        raise NirvanaError(f"A report is an HTML file: expected {out}.html or the like, got {out}.")
    if out.is_dir() or (out.exists() and not is_page(out)):
        raise NirvanaError(
            f"{out} exists already and is not a report. Choose another --out; nothing was changed."
        )


def _raise_roof(name: str, precision: str | None, call: CallShape) -> Roof:
    target = load_target(name)
    chosen = precision or ("fp16" if "fp16" in target.tera_ops_per_s else "fp32")
    target.rate(chosen)  # a precision that it has no rate for is refused
    return Roof(target=target, precision=chosen, call=call)
