"""Both models side by side, and the four numbers that most readers come for."""

from math import sqrt

from nirvana_deploy.report.headline import (
    cost_name,
    explain_speed,
    headline_case,
    interval_words,
)
from nirvana_deploy.report.markup import Html, element, join, paragraph, table
from nirvana_deploy.report.numbers import (
    METRICS,
    MISSING,
    divide,
    format_bytes,
    format_change,
    format_count,
    format_decimal,
    format_metric,
    format_metric_change,
    format_milliseconds,
    format_percent,
    format_ratio,
    format_short,
    name_metric,
    subtract,
)
from nirvana_deploy.report.results import Run
from nirvana_deploy.report.serving_results import CaseView
from nirvana_deploy.report.training_results import Prune

Row = tuple[str, str, str, str]


def draw_cards(run: Run) -> Html:
    """Draw quality, MACs, size and speed as four large numbers."""
    if run.prune is None:
        return Html()
    dense, pruned = run.prune.dense, run.prune.pruned
    metric = run.prune.metric
    before, after = dense.score(metric), pruned.score(metric)
    drop = format_metric_change(metric, before, after)
    macs = f"{format_short(pruned.block_macs)} of {format_short(dense.block_macs)}"
    cards = [
        _card(
            name_metric(metric),
            format_metric(metric, after),
            f"dense {format_metric(metric, before)}, {drop}",
        ),
        _card("Block MACs", _times(dense.block_macs, pruned.block_macs, "fewer", "more"), macs),
        _card(
            "Weights",
            format_bytes(pruned.size_bytes),
            f"dense {format_bytes(dense.size_bytes)}, "
            f"{format_change(dense.size_bytes, pruned.size_bytes)}",
        ),
        _speed_card(headline_case(run.profile)),
    ]
    return element("div", *cards, class_="cards")


def draw_comparison(run: Run, prune: Prune) -> Html:
    """Draw the table of both models, and say where the MAC ratio and the speed-up part."""
    rows = [*_quality_rows(prune), *_size_rows(run, prune)]
    for case in run.profile.cases if run.profile else ():
        rows += _case_rows(case)
    drawn = table(
        "Quality, size and speed of both models", ("", "Dense", "Pruned", "Dense to pruned"), rows
    )
    notes = [explain_speed(run), _sampling_note(run, prune)]
    return join([drawn, *(paragraph(note, class_="note") for note in notes if note)])


def _quality_rows(prune: Prune) -> list[Row]:
    dense, pruned = prune.dense, prune.pruned
    found = {**dense.scores, **pruned.scores, prune.metric: None}
    known = [name for name in METRICS if name in found]
    names = dict.fromkeys((*known, *found))
    return [
        *(_score_row(name, dense.score(name), pruned.score(name)) for name in names),
        (
            "Validation loss",
            format_decimal(dense.loss),
            format_decimal(pruned.loss),
            format_change(dense.loss, pruned.loss),
        ),
    ]


def _score_row(name: str, dense: float | None, pruned: float | None) -> Row:
    change = format_metric_change(name, dense, pruned)
    return name_metric(name), format_metric(name, dense), format_metric(name, pruned), change


def _size_rows(run: Run, prune: Prune) -> list[Row]:
    dense, pruned, budget = prune.dense, prune.pruned, prune.budget
    sparsity = format_percent(subtract(1.0, budget.kept_fraction), 2)
    rows = [
        _count_row("Parameters", dense.num_parameters, pruned.num_parameters),
        _count_row("Block parameters", dense.block_parameters, pruned.block_parameters),
        _count_row("Block MACs", dense.block_macs, pruned.block_macs),
        (f"Sparsity, block {cost_name(budget)}", format_percent(0.0, 0), sparsity, MISSING),
        _bytes_row("Weights size", dense.size_bytes, pruned.size_bytes),
    ]
    if run.export:
        graphs = run.export
        rows.append(_bytes_row("ONNX size", graphs.dense.size_bytes, graphs.pruned.size_bytes))
    return rows


def _case_rows(case: CaseView) -> list[Row]:
    shape = case.name_shape()
    dense, pruned, speedup = case.dense, case.pruned, case.speedup
    interval = interval_words(speedup)
    ratio = _words(speedup.ratio, "faster", "slower")
    return [
        (
            f"Latency, {shape}, median",
            format_milliseconds(dense.median_ms),
            format_milliseconds(pruned.median_ms),
            join([ratio, *([" ", _small(interval)] if interval else [])]),
        ),
        (
            f"Throughput, {shape}",
            f"{format_short(dense.throughput_per_s)}/s",
            f"{format_short(pruned.throughput_per_s)}/s",
            _times(pruned.throughput_per_s, dense.throughput_per_s, "more", "less"),
        ),
    ]


def _count_row(name: str, dense: int | None, pruned: int | None) -> Row:
    return name, format_count(dense), format_count(pruned), _shrunk(dense, pruned, "fewer", "more")


def _bytes_row(name: str, dense: int | None, pruned: int | None) -> Row:
    shrunk = _shrunk(dense, pruned, "smaller", "larger")
    return name, format_bytes(dense), format_bytes(pruned), shrunk


def _shrunk(dense: int | None, pruned: int | None, less: str, more: str) -> Html:
    return join([_times(dense, pruned, less, more), " ", _small(format_change(dense, pruned))])


def _times(left: float | None, right: float | None, more: str, less: str) -> str:
    return _words(divide(left, right), more, less)


def _words(ratio: float | None, more: str, less: str) -> str:
    if not ratio:
        return MISSING
    return f"{format_ratio(ratio)} {more}" if ratio >= 1 else f"{format_ratio(1 / ratio)} {less}"


def _card(title: str, value: str, note: str) -> Html:
    number = element("span", value, class_="number")
    return element("div", element("h2", title), number, element("span", note), class_="card")


def _speed_card(case: CaseView | None) -> Html:
    if case is None:
        return _card("Speed-up", MISSING, "not measured in this run")
    speedup = case.speedup
    interval = interval_words(speedup)
    sure = f", {format_percent(speedup.confidence, 0)} interval {interval}" if interval else ""
    note = f"{case.name_shape()}{sure}"
    return _card("Measured speed-up", format_ratio(speedup.ratio), note)


def _sampling_note(run: Run, prune: Prune) -> str | None:
    rows = run.baseline.num_validation_rows if run.baseline else None
    accuracy = prune.pruned.score("accuracy")
    if not rows or prune.metric != "accuracy" or accuracy is None or not 0 < accuracy < 1:
        return None
    margin = 1.96 * sqrt(accuracy * (1 - accuracy) / rows)
    return (
        f"Both accuracies are on the same {format_count(rows)} validation rows. A sample of that "
        f"size places each of them within about {margin * 100:.1f} points (95 %)."
    )


def _small(text: str) -> Html:
    return element("small", text)
