"""The verbs that end in a server: their arguments, and what they call."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nirvana_deploy import api
from nirvana_deploy.config_flags import add_flags, collect_flags
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.serve_config import ServeConfig
from nirvana_deploy.tables import print_pairs


def add_package(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `package` in place."""
    parser.add_argument("onnx", type=Path, help="ONNX file")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new folder for the package"
    )
    parser.add_argument(
        "--dense", type=Path, metavar="ONNX", help="the dense model, served as version 1 beside it"
    )
    parser.add_argument(
        "--engine", type=Path, metavar="DIR", help="engine built from ONNX, served in its place"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="checkpoint of ONNX; its tokenizer and labels make a model that takes text",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="serve the package by the tritonserver of $NIRVANA_TRITON and check its answers",
    )
    add_flags(parser, PackageConfig, title="package")


def run_package(args: argparse.Namespace) -> int:
    """Write a package and say what is in it."""
    result = api.package(
        args.onnx,
        read_config(PackageConfig, collect_flags(args)),
        out=args.out,
        dense=args.dense,
        engine=args.engine,
        checkpoint=args.checkpoint,
        check=args.check,
    )
    rows = [
        ("folder", str(args.out / result.folder)),
        ("models", ", ".join(result.models)),
        ("files", "\n".join(result.files)),
    ]
    check = result.server_check
    if check is not None:
        rows += [
            ("checked by", check["server"]),
            (
                "answers",
                f"{check['num_answers']}, at most {check['max_abs_difference']:.1e} from ONNX "
                "Runtime's",
            ),
            ("batching", f"{check['rows_per_run']:.1f} of single rows ran together"),
            ("too many rows", check["refused"]),
        ]
        if check["stood_in"]:
            names = ", ".join(check["stood_in"])
            rows.append(("checked in the Python backend", f"{names}: the server has no other"))
    print_pairs("Packaged", rows)
    return 0


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve` in place."""
    parser.add_argument("folder", type=Path, help="what `nirvana package --to triton` wrote")
    add_flags(parser, ServeConfig, title="serve")


def run_serve(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    config = read_config(ServeConfig, collect_flags(args))
    api.serve(args.folder, config, say=_say)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
