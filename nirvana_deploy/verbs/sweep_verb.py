"""The verb `nirvana sweep`: throughput by batch size and by callers at a time."""

from __future__ import annotations

import argparse
from pathlib import Path

from nirvana_deploy import api
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.figures_file import check_figures_file, write_figures
from nirvana_deploy.verbs.tables import print_pairs
from nirvana_deploy.verbs.verb import ARTEFACTS, Verb
from profiles.measuring.sweep_config import SweepConfig


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=f"what is measured: {ARTEFACTS}")
    parser.add_argument(
        "--name", default="pruned", help="what the report calls the model (default: pruned)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON file for the curves, for `nirvana report`; .csv or .md: a table",
    )
    add_flags(parser, SweepConfig, title="sweep")


def _sweep(args: argparse.Namespace) -> int:
    config = read_config(SweepConfig, collect_flags(args))
    check_figures_file(args.out)
    result = api.sweep(args.model, config, name=args.name)
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
        from profiles.measuring.sweep_tables import to_csv, to_markdown

        write_figures(
            args.out,
            result.to_json(),
            to_csv=lambda: to_csv(result),
            to_markdown=lambda: to_markdown(result),
        )
    return 0


SWEEP = Verb(
    name="sweep",
    usage="MODEL [--name NAME] [--out FILE] [--SETTING VALUE ...]",
    summary="measure one model's throughput by batch size and by callers at a time",
    description="Run one model, by what runs its kind, on each batch size in turns, then with "
    "several callers that each wait for an answer. `nirvana profile A B --callers` does the second "
    "for two models, `--rates_per_s` with requests at random times.",
    add_arguments=_add_sweep,
    run=_sweep,
    loads_models=True,
)
