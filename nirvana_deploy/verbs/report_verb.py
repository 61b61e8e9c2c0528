"""The verb `nirvana report`: one page of runs, budgets, profiles, sweeps and plans."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nirvana_deploy import api
from nirvana_deploy.verbs.verb import Verb
from profiles.targets.block_work import CallShape
from profiles.targets.target import PRECISIONS


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a run, of budgets (prune --scores) or of scores; or a JSON file: profile, "
        "sweep, plan, or estimates (targets --plan FILE --json)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="HTML file; a report gives way"
    )
    parser.add_argument(
        "--target",
        nargs="+",
        default=[],
        metavar="NAME",
        help="draw the roofline of these targets (`nirvana targets`), an estimate",
    )
    parser.add_argument("--batch", type=int, default=1, help="rows of the call (with --target)")
    parser.add_argument("--length", type=int, default=128, help="tokens per row (with --target)")
    parser.add_argument(
        "--past", type=int, default=0, help="tokens in the cache before the call (with --target)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="with --target; default: fp16 where the target has it, else fp32",
    )


def _report(args: argparse.Namespace) -> int:
    out = api.draw_report(
        args.paths,
        out=args.out,
        targets=args.target,
        precision=args.precision,
        call=CallShape(batch=args.batch, length=args.length, past=args.past),
    )
    sys.stdout.write(f"{out}\n")
    return 0


REPORT = Verb(
    name="report",
    usage="RUN [RUN ...] --out FILE.html [--target NAME ...] [--batch N] [--length N] [--past N]\n"
    "                      [--precision P]",
    summary="draw runs, budgets, profiles and sweeps as one page, and compare them",
    description="Draw latencies, throughput, quality against latency, roofline and kept units as "
    "one self-contained page. Several runs are compared; a folder of budgets gives each of them.",
    add_arguments=_add_report,
    run=_report,
)
