"""The verb `nirvana run-engine`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana_deploy import api
from nirvana_deploy.verbs.tables import print_pairs
from nirvana_deploy.verbs.verb import Verb
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    from nirvana_deploy.engine_run import EngineRun


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
    run = api.run_engine(args.engine, args.inputs, cuda_graph=args.cuda_graph)
    print_pairs("Ran", list(_describe(run)))
    if args.out is not None:
        import numpy as np

        args.out.parent.mkdir(parents=True, exist_ok=True)
        np.savez(args.out, **run.outputs)
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


RUN_ENGINE = Verb(
    name="run-engine",
    usage="ENGINE [--inputs FILE] [--out FILE] [--cuda-graph]",
    summary="run a built engine once on this machine's GPU",
    add_arguments=_add_run_engine,
    run=_run_engine,
)
