"""The verb `nirvana build`."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporters.engines.engine_config import EngineConfig
from nirvana_deploy import api
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import print_result
from nirvana_deploy.verbs.verb import Verb, add_out


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, help="ONNX file")
    add_out(parser, "new folder for the engine and its manifest")
    parser.add_argument(
        "--num_attention_layers",
        type=int,
        help="attention layers to compare the fused ones with (default: counted in the graph)",
    )
    parser.add_argument(
        "--refit",
        type=Path,
        metavar="ENGINE_DIR",
        help="put the weights of ONNX into this engine, built with --refittable true from the same "
        "plan, instead of building; takes no setting",
    )
    parser.add_argument(
        "--require-fused-attention",
        dest="required",
        action="store_true",
        help="fail where an attention is not one fused kernel, and name it",
    )
    add_flags(parser, EngineConfig, title="build")


def _build(args: argparse.Namespace) -> int:
    flags = collect_flags(args)
    if args.required:
        flags["require_fused_attention"] = True
    config = read_config(EngineConfig, flags) if flags or args.refit is None else None
    result = api.build(
        args.onnx,
        config,
        out=args.out,
        num_attention_layers=args.num_attention_layers,
        refit=args.refit,
    )
    print_result("Built" if args.refit is None else "Refitted", result)
    return 0


BUILD = Verb(
    name="build",
    usage="ONNX --out DIR [--refit ENGINE_DIR | --SETTING VALUE ...]",
    summary="build a TensorRT engine from ONNX",
    add_arguments=_add_build,
    run=_build,
)
