"""Budgets in milliseconds for `nirvana prune --scores`: prices of a table or of an estimate."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana_deploy.config_reader import read_config
from nirvana_deploy.verbs.config_flags import add_flags
from profiles.latency.table_config import TableConfig
from pruning.errors import NirvanaError
from pruning.oneshot.oneshot_config import OneShotConfig

if TYPE_CHECKING:
    from profiles.latency.latency_budget import LatencyBudget
    from profiles.latency.latency_table import LatencyTable
    from profiles.measuring.progress import OnProgress
    from pruning.oneshot.pricing import Pricing
    from pruning.oneshot.scoring_run import ScoringRun

_FLAGS = ("latency", "speedup", "target", "precision")


def add_latency_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a budget in milliseconds to `parser` in place."""
    group = parser.add_argument_group(
        "latency", "With --scores, in place of --budget: what the whole model may take on a target."
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
        "--precision", metavar="P", help="of an estimate: fp32, tf32, fp16 (default), bf16, int8"
    )
    add_flags(parser, TableConfig, prefix="table")


def asks_latency(args: argparse.Namespace) -> bool:
    """Tell whether a budget in milliseconds was asked for."""
    return args.latency is not None or args.speedup is not None


def refuse_latency(args: argparse.Namespace, given: dict[str, Any]) -> None:
    """Raise NirvanaError for latency flags where they have no use."""
    names = [name for name in _FLAGS if getattr(args, name) is not None]
    names += ["table.*"] if "table" in given else []
    if names:
        raise NirvanaError(
            f"--{names[0]} is for a budget in milliseconds: give --scores RUN, and --latency TIME "
            "or --speedup X. Gates learn budgets in macs, parameters or bytes."
        )


def read_latency_flags(
    args: argparse.Namespace, table: dict[str, Any], config: OneShotConfig
) -> tuple[ScoringRun, tuple[float], Pricing]:
    """Return the scoring run, the budget as a fraction, and what it is a fraction of."""
    from nirvana_deploy.new_folder import refuse_used_folder
    from nirvana_deploy.verbs.step_progress import show_steps
    from profiles.latency.latency_budget import LatencyBudget, parse_latency
    from pruning.oneshot.scoring_run import load_run

    if args.budget is not None:
        raise NirvanaError("--budget and --latency or --speedup do not go together. Give one.")
    latency_ms = None if args.latency is None else parse_latency(args.latency)
    budget = LatencyBudget(latency_ms=latency_ms, speedup=args.speedup)
    refuse_used_folder(args.out)  # said now, not after the measurement
    run = load_run(args.scores)
    with show_steps() as progress:
        fraction, pricing = price_latency(
            run,
            budget,
            config,
            target=args.target or "cpu",
            table=read_config(TableConfig, table, key="table"),
            precision=args.precision,
            model=args.model,
            on_progress=lambda what, done: progress(what, round(100 * done), 100),
        )
    return run, (fraction,), pricing


def price_latency(
    run: ScoringRun,
    budget: LatencyBudget,
    config: OneShotConfig | None = None,
    *,
    target: str = "cpu",
    table: TableConfig | None = None,
    precision: str | None = None,
    model: str | None = None,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[float, Pricing]:
    """Return what fraction of the blocks' latency meets a budget, and the prices behind it.

    The target "cpu" is this machine: a table is measured, or found in the cache. Others are
    estimated, and what comes of it says so: the estimate has the blocks alone, which are taken for
    the whole model.

    Raises:
        NirvanaError: the budget cannot be reached, or the target or the model has no table.
    """
    from profiles.latency.latency_budget import find_fraction
    from profiles.targets.roofline import RooflineCost
    from profiles.targets.target import load_target
    from pruning.oneshot.pricing import Pricing

    settings, config = table or TableConfig(), config or OneShotConfig()
    cost: LatencyTable | RooflineCost
    if target == "cpu":
        if precision not in (None, "fp32"):
            raise NirvanaError(f"Tables are measured in fp32 on the CPU, got {precision!r}.")
        cost = _measure(model or run.source, settings, cache, on_progress)
        dense_ms, how = cost.dense_ms, "predicted from a measured table"
    else:
        cost = RooflineCost(
            target=load_target(target), call=settings.call, precision=precision or "fp16"
        )
        dense_ms, how = cost.dense_ms(run.dims), "estimated from peak rates, nothing was run"
    fraction = find_fraction(cost, dense_ms, run.dims, budget, config.constraints)
    about = {
        "target": target,
        "how": how,
        "is_estimate": target != "cpu",
        "asked_ms": budget.asked_ms(dense_ms),
        "dense_ms": dense_ms,
        "call": dataclasses.asdict(settings.call),
        "clock": settings.clock if target == "cpu" else None,  # nothing was timed for an estimate
        "num_threads": settings.num_threads if target == "cpu" else None,
        "precision": precision or ("fp32" if target == "cpu" else "fp16"),
    }
    return fraction, Pricing(cost=cost, about=about)


def _measure(
    source: str, config: TableConfig, cache: Path | None, on_progress: OnProgress | None
) -> LatencyTable:
    from transformers import AutoConfig

    from profiles.latency.measure_table import measure_table
    from pruning.checkpoints.model_skeleton import find_architecture
    from pruning.checkpoints.model_source import load_model, load_stock_model

    architecture = find_architecture(load_stock_model(AutoConfig, source))
    model = load_model(architecture, source, attn_implementation="eager").float().eval()
    return measure_table(model, config, cache=cache, on_progress=on_progress)
