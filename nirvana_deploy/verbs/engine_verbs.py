"""The verbs for TensorRT engines: `nirvana build` and `nirvana run-engine`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.engines.engine_config import EngineConfig
from nirvana_deploy.api import engines
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.tables import list_pairs, print_result
from nirvana_deploy.verbs.verb import Verb, add_out
from pruning.errors import NirvanaError
from pruning.write_aside import require_writable, write_aside

if TYPE_CHECKING:
    from nirvana_deploy.api.engines import EngineRun


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, help="ONNX file")
    add_out(parser, "new folder for the engine and its manifest")
    parser.add_argument(
        "--num-attention-layers",
        type=int,
        help="attention layers to compare the fused ones with (default: counted in the graph)",
    )
    parser.add_argument(
        "--refit",
        type=Path,
        metavar="ENGINE_DIR",
        help="put the weights of ONNX into this engine, built with --refittable from the same "
        "plan, instead of building; takes no setting",
    )
    add_flags(parser, EngineConfig, title="build")


def _build(args: argparse.Namespace) -> int:
    flags = collect_flags(args)
    config = read_config(EngineConfig, flags) if flags or args.refit is None else None
    result = engines.build(
        args.onnx,
        config,
        out=args.out,
        num_attention_layers=args.num_attention_layers,
        refit=args.refit,
    )
    plain = result.to_json()
    print_result(args, "Built" if args.refit is None else "Refitted", list_pairs(plain), plain)
    return 0


def _add_run_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", type=Path, help="folder of a built engine")
    parser.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE",
        help=".npz of arrays by input name (default: made up, of the shapes it is tuned for)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=".npz file for the outputs")
    parser.add_argument(
        "--cuda-graph", action="store_true", help="record the run once, and launch it as a whole"
    )


def _run_engine(args: argparse.Namespace) -> int:
    if args.out is not None and (args.out.exists() or args.out.suffix != ".npz"):
        raise NirvanaError(
            f"Expected a new .npz file for the outputs, got {args.out}"
            f"{', which exists already' if args.out.exists() else ''}."
        )
    if args.out is not None:
        require_writable(args.out, "run-engine")
    run = engines.run_engine(args.engine, args.inputs, cuda_graph=args.cuda_graph)
    print_result(args, "Ran", list(_describe(run)), run.to_json())
    if args.out is not None:
        import numpy as np

        with write_aside(args.out) as aside:
            np.savez(aside, **run.outputs)
    return 0


def _describe(run: EngineRun) -> Iterator[tuple[str, str]]:
    yield "engine", f"{run.flavour} {run.version}, profile {run.profile} of {run.num_profiles}"
    yield "device", run.device
    for name, array in run.outputs.items():
        yield name, f"{array.dtype} {list(array.shape)}, {_describe_values(array)}"
    for part, milliseconds in run.parts_ms.items():
        yield part.replace("_ms", ""), f"{milliseconds:.3f} ms"
    yield "note", "one run after a first one; `nirvana profile` measures"


def _describe_values(array: Any) -> str:
    return f"{array.min():.4g} to {array.max():.4g}" if array.size else "empty"


BUILD = Verb(
    name="build",
    usage="ONNX --out DIR [--refit ENGINE_DIR | --SETTING VALUE ...]",
    summary="build a TensorRT engine from ONNX",
    add_arguments=_add_build,
    run=_build,
    usual=(
        "flavour",
        "precision",
        "compute_capabilities",
        "batch",
        "length",
        "past",
        "workspace_mib",
        "refittable",
        "require_fused_attention",
    ),
)

RUN_ENGINE = Verb(
    name="run-engine",
    usage="ENGINE [--inputs FILE] [--out FILE] [--cuda-graph]",
    summary="run a built engine once on this machine's GPU",
    add_arguments=_add_run_engine,
    run=_run_engine,
)
