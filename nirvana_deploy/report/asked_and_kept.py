"""What was asked and what came: the budget as a bar, the verdict on it, the pruning's facts."""

from nirvana_deploy.report.headline import cost_name, hardware_phrase, judge_budget
from nirvana_deploy.report.markup import Html, definitions, element, folded, join, paragraph
from nirvana_deploy.report.numbers import (
    MISSING,
    format_count,
    format_duration,
    format_percent,
    subtract,
)
from nirvana_deploy.report.results import Run
from nirvana_deploy.report.training_results import Fidelity, Prune

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
