"""Prints results as tables on the standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from nirvana_deploy.evaluation import ModelEvaluation, Score
    from pruning.cutting.inspection import ModelStructure
    from pruning.cutting.proof import Proof

_MOST_ROWS = 10  # of those that changed
_MOST_COLUMNS = 8  # of a confusion


def make_console() -> Console:
    """Make the console for results: plain when piped, and then never cut to a width."""
    from rich.console import Console

    return Console(
        file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160, markup=False
    )


def print_json(data: object) -> None:
    """Print data for a program to read."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def print_pairs(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Print (what, value) rows under a title."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for what, value in pairs:
        table.add_row(what, value)
    make_console().print(table)


def print_structure(name: str, structure: ModelStructure) -> None:
    """Print the prunable structure of a model, a row a layer."""
    from rich.table import Table

    share = structure.block_parameters / structure.num_parameters
    kinds = sorted({row.stack for row in structure.rows}, reverse=True)
    table = Table()
    columns = ["layer", "heads", "KV heads", "head dim", "neurons", "attention parameters"]
    if structure.has_cross_attention:
        columns.insert(3, "cross heads")
        columns.append("cross-attention parameters")
    for column in (*columns, "MLP parameters"):
        table.add_column(column, justify="right")
    for row in structure.rows:
        cells = [
            f"{row.stack} {row.layer}" if len(kinds) > 1 else str(row.layer),
            _show_units(row.num_heads),
            _show_units(row.num_kv_heads),
            str(row.head_dim),
            _show_units(row.num_neurons),
            f"{row.attention_parameters:,}",
        ]
        if structure.has_cross_attention:
            is_decoder = row.stack == "decoder"
            cells.insert(3, _show_units(row.num_cross_heads) if is_decoder else "")
            cells.append(f"{row.cross_attention_parameters:,}" if is_decoder else "")
        table.add_row(*cells, f"{row.mlp_parameters:,}")
    console = make_console()
    console.print(
        f"{name}: {structure.model_type} ({structure.architecture}, {' and '.join(kinds)}), "
        f"{structure.num_parameters:,} parameters, {structure.block_parameters:,} ({share:.0%}) "
        "in prunable blocks"
    )
    if structure.inferred_from:
        console.print(
            f"Wiring inferred: no record for {structure.model_type}, its names are those of "
            f"{structure.inferred_from}; proven on two layers with random weights."
        )
    console.print(table)


def print_evaluation(result: ModelEvaluation) -> None:
    """Print scores with their intervals, the classes, and the first rows that changed."""
    from rich.table import Table

    console, changes = make_console(), result.changes
    cut = f", {result.num_cut} of them cut at {result.max_length} tokens" if result.num_cut else ""
    console.print(f"{result.model}: {result.task} on {result.num_rows} rows{cut}")
    columns = ["score", "value", "95 % interval"]
    columns += [] if changes is None else [f"baseline {changes.baseline}", "95 % interval"]
    table = Table(*columns)
    for name, score in result.scores.items():
        row = [name, *_show_score(score)]
        table.add_row(*row, *([] if changes is None else _show_score(changes.scores[name])))
    console.print(table)
    if result.table is not None:
        _print_classes(console, result)
    if changes is None:
        return
    console.print(
        f"{changes.num_rows} of {result.num_rows} rows are answered differently: "
        f"{changes.fraction:.2%}, and of all rows like these at most {changes.at_most:.2%} (with "
        "95 % confidence)."
    )
    if changes.rows:
        table = Table("row", "label", "baseline", "answer", "text")
        for each in changes.rows[:_MOST_ROWS]:
            table.add_row(str(each.row), each.label, each.baseline, each.answer, each.text[:80])
        console.print(table)
        console.print("--json and --out have all of them, up to 1,000.")


def _print_classes(console: Console, result: ModelEvaluation) -> None:
    from rich.table import Table

    assert result.table is not None
    names = [each.name for each in result.table.classes]
    shown = names if len(names) <= _MOST_COLUMNS else []
    table = Table("class", "labels", "precision", "recall", "f1", *(f"as {n}" for n in shown))
    for each, counts in zip(result.table.classes, result.table.confusion, strict=True):
        if not each.num_labels and not each.num_predicted:
            continue
        cells = [_show_share(value) for value in (each.precision, each.recall, each.f1)]
        numbers = [str(count) for count in counts] if shown else []
        table.add_row(each.name, str(each.num_labels), *cells, *numbers)
    console.print(table)


def _show_score(score: Score) -> tuple[str, str]:
    if score.low is None or score.high is None:
        return f"{score.value:.4f}", ""
    return f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}"


def _show_share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def print_proof(proof: Proof) -> None:
    """Print what a proof compared, and whether it holds."""
    from rich.table import Table

    table = Table()
    for column in ("random plan", "repacked against masked", "", "largest difference", "note"):
        table.add_column(column, overflow="fold")
    for check in proof.checks:
        difference = check.max_abs_difference
        table.add_row(
            check.plan,
            check.what,
            "equal" if check.passed else "DIFFERENT",
            "" if difference is None else f"{difference:.1e}",
            check.note if not check.passed or check.max_abs_difference is None else "",
        )
    console = make_console()
    console.print(table)
    failed = sum(not check.passed for check in proof.checks)
    made = len(proof.checks)
    console.print(
        f"Proven: {made} checks, repacked equals masked in each."
        if proof.holds
        else f"NOT PROVEN: {failed} of {made} checks failed. Do not prune this model."
    )


def _show_units(num_units: int | None) -> str:
    return "dropped" if num_units is None else f"{num_units:,}"


def print_result(
    args: argparse.Namespace, title: str, pairs: Sequence[tuple[str, str]], plain: object
) -> None:
    """Print a result: its first figures, or with --json all of it."""
    if args.json:
        print_json(plain)
    else:
        print_pairs(title, pairs)


def list_pairs(plain: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return plain data as (what, value) for a person to read."""
    return [(what, _show(value)) for what, value in plain.items()]


def _show(value: object) -> str:
    """Put plain data into the cell of a table: a line for each item that has parts itself."""
    if isinstance(value, dict):
        nested = any(isinstance(item, dict) for item in value.values())
        shown = (f"{name} {_show(item)}" for name, item in value.items())
        return ("\n" if nested else ", ").join(shown)
    if isinstance(value, (list, tuple)):
        if not value:
            return "none"
        if any(isinstance(item, dict) for item in value):
            return "\n".join(_show(item) for item in value)
        return " x ".join(map(_show, value)) if _is_shape(value) else ", ".join(map(_show, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _is_shape(value: Any) -> bool:
    return len(value) > 1 and all(type(item) is int for item in value)
