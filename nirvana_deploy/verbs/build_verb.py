"""The verb `nirvana build`."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporters.engines.engine_config import EngineConfig
from nirvana_deploy import api
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import (
    print_result,
)
from nirvana_deploy.verbs.verb import Verb, add_out


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, help="ONNX file")
    add_out(parser, "new folder for the engine and its manifest")
    parser.add_argument(
        "--num_attention_layers",
        type=int,
        help="attention layers to compare the fused ones with (default: counted in the graph)",
    )
    add_flags(parser, EngineConfig, title="build")


def _build(args: argparse.Namespace) -> int:
    config = read_config(EngineConfig, collect_flags(args))
    result = api.build(
        args.onnx, config, out=args.out, num_attention_layers=args.num_attention_layers
    )
    print_result("Built", result)
    return 0


BUILD = Verb(
    name="build",
    usage="ONNX --out DIR [--SETTING VALUE ...]",
    summary="build a TensorRT engine from ONNX",
    add_arguments=_add_build,
    run=_build,
)
