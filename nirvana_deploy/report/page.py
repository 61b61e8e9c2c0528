"""The page of one run. No number is made here."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from nirvana_deploy.report.comparison import draw_cards, draw_comparison
from nirvana_deploy.report.evidence import (
    draw_absence,
    draw_engine,
    draw_export,
    draw_package,
    draw_proofs,
)
from nirvana_deploy.report.headline import (
    cost_name,
    environment_rows,
    hardware_phrase,
    judge_budget,
    write_headline,
)
from nirvana_deploy.report.kept_chart import draw_kept_units
from nirvana_deploy.report.latency_charts import draw_latencies, draw_measurements
from nirvana_deploy.report.markup import (
    Html,
    definitions,
    draw_document,
    draw_footer,
    element,
    folded,
    join,
    paragraph,
    section,
)
from nirvana_deploy.report.numbers import (
    MISSING,
    format_count,
    format_duration,
    format_percent,
    subtract,
)
from nirvana_deploy.report.quality_chart import draw_quality
from nirvana_deploy.report.read_subjects import read_run_subject
from nirvana_deploy.report.results import Run, StageState
from nirvana_deploy.report.roofline_chart import Roof, draw_roofline
from nirvana_deploy.report.subject import Subject
from nirvana_deploy.report.throughput_charts import draw_generations, draw_throughput
from nirvana_deploy.report.training_charts import draw_baseline_curve, draw_pruning_curves
from nirvana_deploy.report.training_results import Fidelity, Prune
from pruning.write_aside import write_text

_OBJECTIVES = {
    "budget_constraint": "budget constraint on the hard density",
    "fixed_penalty": "fixed penalty (alpha, beta)",
}


def draw_budget(run: Run, prune: Prune) -> Html:
    """Draw the budget bar, the verdict, and the facts of the pruning."""
    budget, verdict = prune.budget, judge_budget(prune)
    asked = format_percent(budget.asked_kept_fraction, 2)
    kept = format_percent(budget.kept_fraction, 2)
    counted = f"block {cost_name(budget)}"
    if budget.sequence_length is not None:
        counted += f" at length {budget.sequence_length}"
    labels = run.baseline.labels if run.baseline else ()
    facts = [
        ("Asked to keep", f"{asked} of the {counted}"),
        ("Kept", kept),
        ("Sparsity", format_percent(subtract(1.0, budget.kept_fraction), 2)),
        *(_oneshot_facts(prune) if prune.is_one_shot else _gate_facts(prune)),
        ("Time in pruning", format_duration(prune.train_seconds)),
        ("Hardware", hardware_phrase(run.profile) or MISSING),
        *_data_facts(run),
    ]
    label = element("strong", verdict.label, class_=f"verdict {verdict.outcome}")
    return join(
        [
            _budget_bar(budget.asked_kept_fraction, budget.kept_fraction),
            paragraph(label, " ", verdict.sentence),
            definitions(facts),
            folded("The labels", paragraph(", ".join(labels))) if labels else "",
        ]
    )


def _gate_facts(prune: Prune) -> list[tuple[str, str]]:
    return [
        ("Pruning stages", format_count(prune.num_pruning_stages)),
        ("Objective", _OBJECTIVES.get(prune.objective or "", prune.objective or MISSING)),
        (
            "Gates undecided before the budget was enforced",
            format_percent(prune.undecided_fraction),
        ),
    ]


def _oneshot_facts(prune: Prune) -> list[tuple[str, str]]:
    none = "not applicable: pruned in one step by scores"
    layers = ", ".join(str(layer) for layer in prune.uncorrected_layers)
    return [
        ("Pruning stages", none),
        ("Gates undecided before the budget was enforced", none),
        ("Scored by", prune.saliency or MISSING),
        ("Budget shared by", prune.allocation or MISSING),
        ("Repair", prune.repair or MISSING),
        ("Blocks whose residual error was not made up for", layers or "none"),
        ("Trained after pruning", "yes" if prune.recovered else "no"),
        ("Divergence from dense, calibration text", _divergence(prune.calibration)),
        ("Divergence from dense, held-out text", _divergence(prune.held_out)),
    ]


def _divergence(fidelity: Fidelity) -> str:
    if fidelity.kl_divergence is None:
        return MISSING
    counted = format_count(fidelity.num_sequences)
    return f"{fidelity.kl_divergence:.4f} nats (KL), {counted} sequences"


def _data_facts(run: Run) -> list[tuple[str, str]]:
    baseline = run.baseline
    if baseline is None:
        return []
    num_train = format_count(baseline.num_train_rows)
    num_validation = format_count(baseline.num_validation_rows)
    return [
        ("Model", baseline.model or MISSING),
        ("Rows", f"{num_train} train, {num_validation} validation"),
        ("Labels", format_count(baseline.num_labels)),
    ]


def _budget_bar(asked: float | None, kept: float | None) -> Html:
    if asked is None or kept is None:
        return Html()
    label = f"{format_percent(kept, 2)} kept, {format_percent(asked, 2)} asked"
    fill = element("span", class_="fill", style=f"width:{_width(kept)}")
    mark = element("span", class_="mark", style=f"left:{_width(asked)}")
    bar = element("div", fill, mark, class_="budget", role="img", aria_label=label)
    swatches = (element("i", class_="swatch kept"), element("i", class_="swatch asked"))
    keys = (
        element("span", swatches[0], f"kept {format_percent(kept, 2)}", class_="key"),
        element("span", swatches[1], f"asked {format_percent(asked, 2)}", class_="key"),
        element("span", "the whole bar is the dense model", class_="key"),
    )
    return join([bar, element("p", *keys, class_="keys")])


def _width(fraction: float) -> str:
    return f"{min(max(fraction, 0.0), 1.0) * 100:.2f}%"


_SOURCE = "the manifests in the run folder"


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder from what its stages stored, and return its path.

    A stage that is missing or skipped is marked as such. Raises `NirvanaError` when the folder
    is absent or a manifest cannot be read.
    """
    path = run_dir / "report.html"
    write_text(path, draw_page(read_run_subject(run_dir)))
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
