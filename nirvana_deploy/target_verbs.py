"""The verb `nirvana targets`: the machines that are known, and where each figure is from."""

from __future__ import annotations

import argparse

from nirvana_deploy.tables import make_console, print_json, print_pairs
from profiles.target import PRECISIONS, Figure, Target, list_target_names, load_target


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `nirvana targets`."""
    parser.add_argument(
        "name", nargs="?", help="show one with its sources; cpu measures this machine's processor"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run_targets(args: argparse.Namespace) -> int:
    """Print all targets, or one with the source of each figure."""
    if args.name is not None:
        target = load_target(args.name)
        print_json(target.to_json()) if args.json else _print_target(target)
        return 0
    targets = [load_target(name) for name in list_target_names()]
    if args.json:
        print_json([target.to_json() for target in targets])
    else:
        _print_all(targets)
    return 0


def _print_all(targets: list[Target]) -> None:
    from rich.table import Table

    table = Table(caption="Rates are dense, in 10^12 operations a second (peak, not reached).")
    for column in ("target", "", "compute", "memory GB", "GB/s", *PRECISIONS):
        table.add_column(column, justify="left" if column in ("target", "") else "right")
    for target in targets:
        rates = (target.tera_ops_per_s.get(precision) for precision in PRECISIONS)
        table.add_row(
            target.name,
            target.title,
            target.compute_capability or "",
            f"{target.memory_gb:g}",
            f"{target.memory_bandwidth_gb_per_s.value:g}",
            *("" if rate is None else f"{rate.value:g}" for rate in rates),
        )
    console = make_console()
    console.print(table)
    console.print("`nirvana targets NAME` has the source of each figure; `cpu` is this machine's.")


def _print_target(target: Target) -> None:
    pairs = [("compute capability", target.compute_capability or "none")]
    pairs.append(("memory", f"{target.memory_gb:.4g} GB"))
    pairs.append(_describe("memory bandwidth, GB/s", target.memory_bandwidth_gb_per_s))
    pairs += [
        _describe(f"{name}, 10^12 operations a second", figure)
        for name, figure in target.tera_ops_per_s.items()
    ]
    if target.alignment_bytes is not None:
        pairs.append(_describe("alignment, bytes", target.alignment_bytes))
    print_pairs(target.title, pairs)


def _describe(what: str, figure: Figure) -> tuple[str, str]:
    note = f" ({figure.note})" if figure.note else ""
    return what, f"{figure.value:.4g}{note}\n{figure.source}"
