"""The verbs about machines: `nirvana doctor` for this one, `nirvana targets` for the known ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nirvana_deploy.api import machines
from nirvana_deploy.api.machines import Finding, PlanEstimate
from nirvana_deploy.verbs.tables import make_console, print_json, print_pairs
from nirvana_deploy.verbs.verb import Verb, add_call, read_call
from profiles.targets.target import PRECISIONS, UNSOURCED, Figure, Target

_CAPTION = (
    "Rates are dense peak rates, in 10^12 operations per second. * marks a figure that no vendor's "
    "page, paper or measurement supports yet."
)


def _add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        help="show one target with its sources; cpu measures this machine's processor",
    )
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="estimate what the blocks that this plan leaves take, beside the dense ones",
    )
    add_call(parser, "--plan")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="with --plan")


def _targets(args: argparse.Namespace) -> int:
    """Print all targets, one with the source of each figure, or estimates for a plan."""
    if args.plan is not None:
        rows = machines.estimate(
            args.plan, target=args.name, call=read_call(args), precision=args.precision
        )
        if args.json:
            print_json([row.to_json() for row in rows])
        else:
            _print_estimates(rows, args.precision)
    elif args.name is not None:
        (target,) = machines.targets(args.name)
        print_json(target.to_json()) if args.json else _print_target(target)
    else:
        found = machines.targets()
        print_json([target.to_json() for target in found]) if args.json else _print_all(found)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    findings = machines.doctor()
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        _print_findings(findings)
    return 0


def _print_estimates(rows: Sequence[PlanEstimate], precision: str) -> None:
    from rich.table import Table

    table = Table()
    for column in ("target", "dense ms", "pruned ms", "ratio", "dense is", "pruned is"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for row in rows:
        target, dense, pruned = row.target, row.dense, row.pruned
        ratio = dense.latency_ms / pruned.latency_ms if pruned.latency_ms else float("inf")
        table.add_row(
            target.name,
            f"{dense.latency_ms:.3g}",
            f"{pruned.latency_ms:.3g}",
            f"{ratio:.2f}",
            f"{dense.bound}-bound",
            f"{pruned.bound}-bound",
        )
    console = make_console()
    console.print(table)
    console.print(
        "ESTIMATES from peak rates, nothing was run: what the blocks take at least, without "
        "embeddings and heads."
    )
    unsourced = [row.target.name for row in rows if row.target.list_unsourced(precision)]
    if unsourced:
        console.print(
            f"Based on unsourced figures: {', '.join(unsourced)} (`nirvana targets NAME`)."
        )


def _print_all(targets: Sequence[Target]) -> None:
    from rich.table import Table

    table = Table(caption=_CAPTION)
    for column in ("target", "", "compute", "memory GB", "GB/s", *PRECISIONS):
        table.add_column(column, justify="left" if column in ("target", "") else "right")
    for target in targets:
        rates = (target.tera_ops_per_s.get(precision) for precision in PRECISIONS)
        table.add_row(
            target.name,
            target.title,
            target.compute_capability or "",
            f"{target.memory_gb:g}",
            _mark(target.memory_bandwidth_gb_per_s),
            *("" if rate is None else _mark(rate) for rate in rates),
        )
    console = make_console()
    console.print(table)
    console.print("`nirvana targets NAME` has the source of each figure; `cpu` is this machine's.")


def _mark(figure: Figure) -> str:
    return f"{figure.value:g}{'*' if figure.source == UNSOURCED else ''}"


def _print_target(target: Target) -> None:
    pairs = [("compute capability", target.compute_capability or "none")]
    pairs.append(("memory", f"{target.memory_gb:.4g} GB"))
    pairs.append(_describe("memory bandwidth, GB/s", target.memory_bandwidth_gb_per_s))
    pairs += [
        _describe(f"{name}, 10^12 operations per second", figure)
        for name, figure in target.tera_ops_per_s.items()
    ]
    if target.alignment_bytes is not None:
        pairs.append(_describe("alignment, bytes", target.alignment_bytes))
    print_pairs(target.title, pairs)


def _describe(what: str, figure: Figure) -> tuple[str, str]:
    note = f" ({figure.note})" if figure.note else ""
    return what, f"{figure.value:.4g}{note}\n{figure.source}"


def _print_findings(findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="What this machine can do", title_justify="left")
    for column in ("area", "what", "state", "found", "to get it"):
        table.add_column(column, overflow="fold")
    styles = {"ok": "green", "missing": "yellow", "warning": "bold red"}
    area = ""
    for finding in findings:
        table.add_row(
            finding.area if finding.area != area else "",
            finding.what,
            Text(finding.state, styles[finding.state]),
            finding.found,
            finding.remedy,
        )
        area = finding.area
    make_console().print(table)


TARGETS = Verb(
    name="targets",
    usage="[NAME] [--plan FILE [--batch N] [--length N] [--past N] [--precision P]] [--json]",
    summary="show the known machines: memory bandwidth, compute rates, and their sources",
    add_arguments=_add_targets,
    run=_targets,
)

DOCTOR = Verb(
    name="doctor",
    usage="[--json]",
    summary="show what this machine can do, and what to install for the rest",
    add_arguments=lambda _: None,
    run=_doctor,
)
