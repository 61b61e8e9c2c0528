"""The verbs that end in a server: their arguments, and what they call."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nirvana_deploy.api import serving
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.server.serve_config import ServeConfig
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import print_result
from nirvana_deploy.verbs.verb import Verb, add_out


def _add_package(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "onnx", type=Path, help="ONNX file; for vllm and tensorrt-llm the folder of a checkpoint"
    )
    add_out(parser, "new folder for the package")
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
        help="serve the package by the real server, of $NIRVANA_TRITON or $NIRVANA_VLLM (genai: "
        "as it is installed here), and check its answers",
    )
    add_flags(parser, PackageConfig, title="package")


def _package(args: argparse.Namespace) -> int:
    result = serving.package(
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
    rows += [("note", note) for note in result.notes]
    rows += [
        (f"check, {what.replace('_', ' ')}", _show(value))
        for what, value in (result.server_check or {}).items()
    ]
    print_result(args, "Packaged", rows, {"out": str(args.out), **result.to_json()})
    return 0


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="what `nirvana package --to triton` wrote")
    add_flags(parser, ServeConfig, title="serve")


def _serve(args: argparse.Namespace) -> int:
    config = read_config(ServeConfig, collect_flags(args))
    serving.serve(args.folder, config, say=_say)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


PACKAGE = Verb(
    name="package",
    usage="ONNX --out DIR [--dense ONNX | --engine DIR] [--checkpoint DIR] [--check] "
    "[--SETTING VALUE ...]",
    summary="write the folder that a server loads, and check it by the real server",
    description="Write a Triton model repository: ONNX or its engine, dense and pruned as two "
    "versions, with a tokenizer and labels a model that takes text. With --to genai a decoder's "
    "folder for ONNX Runtime GenAI; with --to vllm or tensorrt-llm a checkpoint, from a "
    "checkpoint. --check has the real server run it, and holds its answers against ONNX "
    "Runtime's, vLLM's against transformers'; tensorrt-llm has no --check.",
    add_arguments=_add_package,
    run=_package,
    usual=(
        "to",
        "model_name",
        "max_batch_size",
        "max_queue_delay_us",
        "instance_kind",
        "instance_count",
        "ab",
        "kubernetes",
        "form",
    ),
)

SERVE = Verb(
    name="serve",
    usage="FOLDER [--SETTING VALUE ...]",
    summary="serve a package on this machine, over HTTP and gRPC",
    description="Serve what `nirvana package` made by the Open Inference Protocol, with "
    "health, readiness, metrics and limits, until Ctrl-C or SIGTERM; open requests are "
    "answered first. Listens on the loopback address alone unless --host says otherwise.",
    add_arguments=_add_serve,
    run=_serve,
    reports=False,
    usual=(
        "host",
        "http_port",
        "grpc_port",
        "metrics_port",
        "num_workers",
        "num_threads",
        "max_body_bytes",
        "max_waiting",
        "request_seconds",
        "drain_seconds",
    ),
)
