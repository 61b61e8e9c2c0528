"""The verb `nirvana profile`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nirvana_deploy import api
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.profile_summary import describe_profile
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.figures_file import check_figures_file, write_figures
from nirvana_deploy.verbs.tables import print_pairs
from nirvana_deploy.verbs.verb import ARTEFACTS, Verb
from profiles.comparing.profile_config import ProfileConfig


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dense", metavar="A", help=f"what is compared with, `dense`: {ARTEFACTS}")
    parser.add_argument("pruned", metavar="B", help="what is compared, `pruned`: one of the same")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file for all figures; .csv or .md: a table"
    )
    add_flags(parser, ProfileConfig, title="profile")


def _profile(args: argparse.Namespace) -> int:
    config = read_config(ProfileConfig, collect_flags(args))
    check_figures_file(args.out)
    result = api.profile(args.dense, args.pruned, config)
    figures = result.to_json()
    print_pairs("Profile", list(describe_profile(figures)))
    if args.out is not None:
        from profiles.comparing.result_tables import to_csv, to_markdown

        write_figures(
            args.out,
            figures,
            to_csv=lambda: to_csv(result),
            to_markdown=lambda: to_markdown(result),
        )
    return 1 if figures.get("partial") else 0


PROFILE = Verb(
    name="profile",
    usage="A B [--out FILE] [--SETTING VALUE ...]",
    summary="measure two of checkpoint, ONNX, engine against each other",
    description=(
        "Run both in turns, each by what runs its kind: torch, ONNX Runtime, TensorRT. Where a "
        "device is lost on the way, what was measured is kept, marked as partial, and the exit "
        "status is 1."
    ),
    add_arguments=_add_profile,
    run=_profile,
    loads_models=True,
)
