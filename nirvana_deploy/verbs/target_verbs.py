"""The verb `nirvana targets`: the machines that are known, and where each figure is from."""

from __future__ import annotations

import argparse
from pathlib import Path

from nirvana_deploy.verbs.tables import make_console, print_json, print_pairs
from nirvana_deploy.verbs.verb import Verb
from profiles.targets.block_work import CallShape
from profiles.targets.roofline import RooflineEstimate, estimate_plan
from profiles.targets.target import (
    PRECISIONS,
    UNSOURCED,
    Figure,
    Target,
    list_target_names,
    load_target,
)
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan

_CAPTION = (
    "Rates are dense peak rates, in 10^12 operations per second. * marks a figure that no vendor's "
    "page, paper or measurement supports yet."
)


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `nirvana targets`."""
    parser.add_argument(
        "name", nargs="?", help="show one with its sources; cpu measures this machine's processor"
    )
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="estimate what the blocks that this plan leaves take, beside the dense ones",
    )
    parser.add_argument("--batch", type=int, default=1, help="rows of the call (with --plan)")
    parser.add_argument("--length", type=int, default=128, help="tokens per row (with --plan)")
    parser.add_argument(
        "--past", type=int, default=0, help="tokens in the cache before the call (with --plan)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="with --plan")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run_targets(args: argparse.Namespace) -> int:
    """Print all targets, one with the source of each figure, or estimates for a plan."""
    if args.plan is not None:
        return _estimate(args)
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


def _estimate(args: argparse.Namespace) -> int:
    plan = PruningPlan.load(args.plan)
    dense = PruningPlan.dense(plan.dims, plan.config_hash)
    call = CallShape(batch=args.batch, length=args.length, past=args.past)
    rows: list[tuple[Target, RooflineEstimate, RooflineEstimate]] = []
    for name in list_target_names() if args.name is None else (args.name,):
        target = load_target(name)
        if args.name is None and args.precision not in target.tera_ops_per_s:
            continue  # a card that cannot compute in it has no row
        before, after = (estimate_plan(p, target, call, args.precision) for p in (dense, plan))
        rows.append((target, before, after))
    if not rows:
        raise NirvanaError(f"No target has a rate for {args.precision!r}. Choose another.")
    if args.json:
        print_json([{"dense": d.to_json(), "pruned": p.to_json()} for _, d, p in rows])
    else:
        _print_estimates(rows, args.precision)
    return 0


def _print_estimates(
    rows: list[tuple[Target, RooflineEstimate, RooflineEstimate]], precision: str
) -> None:
    from rich.table import Table

    table = Table()
    for column in ("target", "dense ms", "pruned ms", "ratio", "dense is", "pruned is"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for target, dense, pruned in rows:
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
    unsourced = [target.name for target, _, _ in rows if target.list_unsourced(precision)]
    if unsourced:
        console.print(
            f"Based on unsourced figures: {', '.join(unsourced)} (`nirvana targets NAME`)."
        )


def _print_all(targets: list[Target]) -> None:
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


TARGETS = Verb(
    name="targets",
    usage="[NAME] [--plan FILE [--batch N] [--length N] [--past N] [--precision P]] [--json]",
    summary="show the machines that are known: bandwidth, rates, and where each figure is from",
    add_arguments=add_targets,
    run=run_targets,
)
