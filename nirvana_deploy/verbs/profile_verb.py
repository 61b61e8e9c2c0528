"""The verb `nirvana profile`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nirvana_deploy import api
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.deploy_result import describe_profile
from nirvana_deploy.run_folder import write_json
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import print_pairs
from nirvana_deploy.verbs.verb import Verb
from profiles.comparing.profile_config import ProfileConfig
from pruning.errors import NirvanaError


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dense_onnx", type=Path, help="ONNX file that is compared with")
    parser.add_argument("pruned_onnx", type=Path, help="ONNX file that is compared")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file for all figures; .csv or .md: a table"
    )
    add_flags(parser, ProfileConfig, title="profile")


def _profile(args: argparse.Namespace) -> int:
    config = read_config(ProfileConfig, collect_flags(args))
    if args.out is not None and args.out.exists():
        raise NirvanaError(f"{args.out} exists already. Choose a new file for the figures.")
    result = api.profile(args.dense_onnx, args.pruned_onnx, config)
    print_pairs("Profile", list(describe_profile(result.to_json())))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        if args.out.suffix in (".csv", ".md"):
            from profiles.comparing.result_tables import to_csv, to_markdown

            args.out.write_text((to_csv if args.out.suffix == ".csv" else to_markdown)(result))
        else:
            write_json(args.out, result.to_json())
    return 0


PROFILE = Verb(
    name="profile",
    usage="DENSE_ONNX PRUNED_ONNX [--out FILE] [--SETTING VALUE ...]",
    summary="measure two ONNX models against each other",
    add_arguments=_add_profile,
    run=_profile,
)
