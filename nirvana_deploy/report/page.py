"""The page of one run. No number is made here."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from nirvana_deploy.report.asked_and_kept import draw_budget
from nirvana_deploy.report.comparison import draw_cards, draw_comparison
from nirvana_deploy.report.document import draw_document, draw_footer, write_page
from nirvana_deploy.report.evidence import (
    draw_absence,
    draw_engine,
    draw_export,
    draw_package,
    draw_proofs,
)
from nirvana_deploy.report.generation import draw_generations
from nirvana_deploy.report.headline import environment_rows, hardware_phrase, write_headline
from nirvana_deploy.report.kept_units import draw_kept_units
from nirvana_deploy.report.latency_charts import draw_latencies
from nirvana_deploy.report.markup import (
    Html,
    definitions,
    element,
    folded,
    join,
    paragraph,
    section,
)
from nirvana_deploy.report.measurements import draw_measurements
from nirvana_deploy.report.numbers import format_duration
from nirvana_deploy.report.quality_chart import draw_quality
from nirvana_deploy.report.read_subjects import read_run_subject
from nirvana_deploy.report.results import Run, StageState
from nirvana_deploy.report.roofline_chart import Roof, draw_roofline
from nirvana_deploy.report.subject import Subject
from nirvana_deploy.report.throughput_charts import draw_throughput
from nirvana_deploy.report.training_charts import draw_baseline_curve, draw_pruning_curves

_SOURCE = "the manifests in the run folder"


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder from what its stages stored, and return its path.

    A stage that is missing or skipped is marked as such. Raises `NirvanaError` when the folder
    is absent or a manifest cannot be read.
    """
    path = run_dir / "report.html"
    write_page(path, draw_page(read_run_subject(run_dir)))
    return path


def draw_page(subject: Subject, roofs: Sequence[Roof] = ()) -> str:
    """Draw the whole document of one run, with its place under each of the roofs."""
    run = subject.run
    body = join([_header(run), element("main", *_sections(subject, roofs)), draw_footer(_SOURCE)])
    return draw_document(f"{', '.join(write_headline(run))} · {run.name}", body)


def _header(run: Run) -> Html:
    model = run.baseline.model if run.baseline else None
    started = next((state.started for state in run.stages.values() if state.started), None)
    hardware = hardware_phrase(run.profile)
    facts = (PurePath(model).name if model else None, hardware, started, f"run {run.name}")
    return element(
        "header",
        paragraph("nirvana-deploy", class_="brand"),
        element("h1", *_clauses(write_headline(run))),
        paragraph(" · ".join(fact for fact in facts if fact), class_="facts"),
        element("ol", *(_stage_chip(state) for state in run.stages.values()), class_="stages"),
        draw_cards(run),
    )


def _clauses(headline: tuple[str, ...]) -> Iterator[str]:
    """Keep each clause together where the line has room for it."""
    *first, last = headline
    for clause in first:
        yield element("span", clause, ",")
        yield " "
    yield element("span", last)


def _stage_chip(state: StageState) -> Html:
    said = {"done": format_duration(state.seconds), "skipped": "skipped", "missing": "not run"}
    words = (element("span", state.name), " ", element("small", said[state.status]))
    return element("li", *words, class_=state.status)


def _sections(subject: Subject, roofs: Sequence[Roof]) -> Iterator[Html]:
    run = subject.run
    prune, export = run.prune, run.export
    budget = draw_budget(run, prune) if prune else _absent(run, "prune")
    yield section("budget", "Asked and kept", budget)
    compared = draw_comparison(run, prune) if prune else _absent(run, "prune")
    yield section("comparison", "Dense and pruned", compared)
    kept = draw_kept_units(prune.layers) if prune else _absent(run, "prune")
    yield section("kept", "What is kept", kept)
    yield section("training", "Training", _training(run))
    yield section("latency", "Latency", _latency(run))
    if run.profile:
        yield section("throughput", "Throughput", draw_throughput([subject]))
        yield section("quality", "Quality against latency", draw_quality([subject]))
    yield section("roofline", "Roofline", draw_roofline([subject], roofs))
    proofs = draw_proofs(prune.proofs) if prune else _absent(run, "prune")
    exported = draw_export(export) if export else _absent(run, "export")
    yield section("verification", "Verification", proofs, exported)
    engines = [draw_engine(build, export) for build in run.builds] or [_absent(run, "build")]
    yield section("engine", "Engine", *engines)
    packaged = draw_package(run.package) if run.package else _absent(run, "package")
    yield section("package", "Serving package", packaged)
    yield section("environment", "Environment", _environment(run))
    yield section("recipe", "Recipe", _recipe(run))


def _absent(run: Run, stage: str) -> Html:
    return draw_absence(run.stages[stage])


def _training(run: Run) -> Html:
    if run.baseline:
        dense = draw_baseline_curve(run.baseline)
    elif "baseline" in run.stages:
        dense = _absent(run, "baseline")
    else:
        words = "The model was fine-tuned before this run, so there is no training curve of it."
        dense = paragraph(words, class_="note")
    pruned = draw_pruning_curves(run.prune) if run.prune else _absent(run, "prune")
    if run.prune and run.prune.is_one_shot and not run.prune.recovered:
        words = "Pruned without training: there is no curve of it."
        pruned = paragraph(words, class_="note")
    return join([pruned, dense]) or paragraph("No training curve is stored.", class_="note")


def _latency(run: Run) -> Html:
    if run.profile is None:
        return _absent(run, "profile")
    method = environment_rows(run.profile.method)
    return join(
        [
            element("div", draw_latencies([("", run.profile.cases)]), class_="pair"),
            draw_measurements(run.profile),
            draw_generations([("", run.profile)]),
            folded("How this was measured", definitions(method)) if method else "",
        ]
    )


def _environment(run: Run) -> Html:
    if run.profile is None:
        return _absent(run, "profile")
    rows = environment_rows(run.profile.environment)
    return definitions(rows) if rows else paragraph("No environment is stored.", class_="note")


def _recipe(run: Run) -> Html:
    if run.recipe is None:
        return paragraph("No recipe.yaml is stored in this run.", class_="note")
    return folded("The exact recipe", element("pre", element("code", run.recipe)))
