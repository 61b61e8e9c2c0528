"""The measuring verbs: `nirvana profile A B` and `nirvana sweep MODEL`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nirvana_deploy.api import measuring
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.profile_summary import describe_profile
from nirvana_deploy.runs.run_folder import write_json, write_text
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import print_result
from nirvana_deploy.verbs.verb import ARTEFACTS, Verb
from profiles.comparing.profile_config import ProfileConfig
from profiles.measuring.sweep_config import SweepConfig
from pruning.errors import NirvanaError

_ENDINGS = (".json", ".csv", ".md")


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dense", metavar="A", help=f"baseline, `dense` in the results: {ARTEFACTS}")
    parser.add_argument(
        "pruned", metavar="B", help="candidate, `pruned` in the results: one of the same"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file for all figures; .csv or .md: a table"
    )
    add_flags(parser, ProfileConfig, title="profile")


def _profile(args: argparse.Namespace) -> int:
    config = read_config(ProfileConfig, collect_flags(args))
    _check_figures_file(args.out)
    result = measuring.profile(args.dense, args.pruned, config)
    figures = result.to_json()
    print_result(args, "Profile", list(describe_profile(figures)), figures)
    if args.out is not None:
        from profiles.comparing.result_tables import to_csv, to_markdown

        _write_figures(
            args.out,
            figures,
            to_csv=lambda: to_csv(result),
            to_markdown=lambda: to_markdown(result),
        )
    return 1 if figures.get("partial") else 0


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
    _check_figures_file(args.out)
    result = measuring.sweep(args.model, config, name=args.name)
    rows = [
        (f"batch {p.batch}", f"{p.rows_per_s:.4g} rows/s, median {p.median_ms:.4g} ms")
        for p in result.batches
    ]
    rows += [
        (f"callers {r.num_callers}", f"{r.achieved_per_s:.4g}/s, median {r.median_ms:.4g} ms")
        for r in result.callers
    ]
    print_result(args, f"Sweep, length {result.length}", rows, result.to_json())
    if args.out is not None:
        from profiles.measuring.sweep_tables import to_csv, to_markdown

        _write_figures(
            args.out,
            result.to_json(),
            to_csv=lambda: to_csv(result),
            to_markdown=lambda: to_markdown(result),
        )
    return 0


def _check_figures_file(path: Path | None) -> None:
    """Raise NirvanaError, before anything is measured, for a file that cannot be written."""
    if path is None:
        return
    if path.exists():
        raise NirvanaError(f"{path} exists already. Choose a new file for the figures.")
    if path.suffix not in _ENDINGS:
        raise NirvanaError(
            f"{path} says by its ending what is written: {', '.join(_ENDINGS)}, got "
            f"{path.suffix or 'none'}. Only the JSON has everything."
        )


def _write_figures(
    path: Path,
    figures: dict[str, Any],
    *,
    to_csv: Callable[[], str],
    to_markdown: Callable[[], str],
) -> None:
    """Write what the ending of `path` asks for, in a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        write_text(path, to_csv())
    elif path.suffix == ".md":
        write_text(path, to_markdown())
    else:
        write_json(path, figures)


PROFILE = Verb(
    name="profile",
    usage="A B [--out FILE] [--SETTING VALUE ...]",
    summary="measure two of checkpoint, ONNX, engine against each other",
    description=(
        "Run both in turns, each in its own runtime: torch, ONNX Runtime or TensorRT. Where a "
        "device is lost on the way, what was measured is kept, marked as partial, and the exit "
        "status is 1."
    ),
    add_arguments=_add_profile,
    run=_profile,
    usual=(
        "length",
        "past",
        "batch_sizes",
        "num_threads",
        "provider",
        "cuda_graph",
        "min_seconds",
        "max_seconds",
        "generate",
        "callers",
        "rates_per_s",
    ),
    loads_models=True,
)

SWEEP = Verb(
    name="sweep",
    usage="MODEL [--name NAME] [--out FILE] [--SETTING VALUE ...]",
    summary="measure one model's throughput by batch size and by callers at a time",
    description="Run one model in its own runtime on each batch size in turns, then with "
    "several callers that each wait for an answer. `nirvana profile A B --callers` does the second "
    "for two models, `--rates-per-s` with requests at random times.",
    add_arguments=_add_sweep,
    run=_sweep,
    usual=("length", "past", "batch_sizes", "callers", "num_threads", "provider", "cuda_graph"),
    loads_models=True,
)
