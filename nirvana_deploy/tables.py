"""Prints results as tables on the standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pruning.inspection import ModelStructure


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


def print_structure(name: str, structure: ModelStructure, *, as_json: bool) -> None:
    """Print the prunable structure of a model, a row a layer."""
    if as_json:
        print_json({"model": name, **structure.to_json()})
        return
    from rich.table import Table

    share = structure.block_parameters / structure.num_parameters
    table = Table()
    columns = ("layer", "heads", "head dim", "neurons", "attention parameters", "MLP parameters")
    for column in columns:
        table.add_column(column, justify="right")
    for row in structure.rows:
        table.add_row(
            str(row.layer),
            _show_units(row.num_heads),
            str(row.head_dim),
            _show_units(row.num_neurons),
            f"{row.attention_parameters:,}",
            f"{row.mlp_parameters:,}",
        )
    console = make_console()
    console.print(
        f"{name}: {structure.model_type}, {structure.num_parameters:,} parameters, "
        f"{structure.block_parameters:,} ({share:.0%}) in prunable blocks"
    )
    console.print(table)


def _show_units(num_units: int | None) -> str:
    return "dropped" if num_units is None else f"{num_units:,}"
