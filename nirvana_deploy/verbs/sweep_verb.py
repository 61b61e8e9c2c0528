"""The verb `nirvana sweep`: throughput by batch size and by callers at a time."""

from __future__ import annotations

import argparse
from pathlib import Path

from nirvana_deploy import api
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.run_folder import write_json
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import print_pairs
from nirvana_deploy.verbs.verb import Verb
from profiles.measuring.sweep_config import SweepConfig
from pruning.errors import NirvanaError


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, help="ONNX file that is measured")
    parser.add_argument(
        "--name", default="pruned", help="what the report calls the model (default: pruned)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file for the curves, for `nirvana report`"
    )
    add_flags(parser, SweepConfig, title="sweep")


def _sweep(args: argparse.Namespace) -> int:
    config = read_config(SweepConfig, collect_flags(args))
    if args.out is not None and args.out.exists():
        raise NirvanaError(f"{args.out} exists already. Choose a new file for the curves.")
    result = api.sweep(args.onnx, config, name=args.name)
    rows = [
        (f"batch {p.batch}", f"{p.rows_per_s:.4g} rows/s, median {p.median_ms:.4g} ms")
        for p in result.batches
    ]
    rows += [
        (f"callers {r.num_callers}", f"{r.achieved_per_s:.4g}/s, median {r.median_ms:.4g} ms")
        for r in result.callers
    ]
    print_pairs(f"Sweep, length {result.length}", rows)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, result.to_json())
    return 0


SWEEP = Verb(
    name="sweep",
    usage="ONNX [--name NAME] [--out FILE] [--SETTING VALUE ...]",
    summary="measure throughput by batch size and by callers at a time",
    add_arguments=_add_sweep,
    run=_sweep,
)
