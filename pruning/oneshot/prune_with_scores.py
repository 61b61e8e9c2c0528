"""From a scoring run to pruned checkpoints, one a budget: allocate, repair, repack, prove, save."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from pruning.allocation.allocation_config import KlKnapsack
from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.checkpoints.model_skeleton import build_skeleton
from pruning.checkpoints.model_source import resolve_model
from pruning.checkpoints.prunable_model import read_model
from pruning.cutting.repack import plan_for, repack
from pruning.errors import NirvanaError
from pruning.gates.prune_stage import describe_layers
from pruning.oneshot.fidelity import compare_with_dense, predict, prove_equal
from pruning.oneshot.oneshot_config import OneShotConfig, check_budgets
from pruning.oneshot.prune_to_budget import allocate_budget, prune_to_budget
from pruning.oneshot.score_model import DenseModel, load_dense
from pruning.oneshot.scoring_config import ScoringConfig
from pruning.oneshot.scoring_run import ScoringRun
from pruning.oneshot.scoring_settings import describe_scoring, refuse_difference
from pruning.plans.cost import MacCost, ParameterCost, dense_cost, plan_cost
from pruning.plans.plan import PruningPlan
from pruning.saliencies.saliency import ScoringTask

FIGURES_FILE = "figures.json"
CHECKPOINT_FOLDER = "checkpoint"

Place = Callable[[float], AbstractContextManager[Path]]
Say = Callable[[str, int, int], None]


def prune_with_scores(
    run: ScoringRun,
    budgets: Sequence[float],
    config: OneShotConfig,
    place: Place,
    *,
    model: str | None = None,
    say: Say | None = None,
) -> dict[float, dict[str, Any]]:
    """Prune the model of a scoring run to each budget, and return the figures of each.

    Of `config`, `budget` is not looked at. `place(budget)` gives a folder to write in, which gets
    checkpoint/, plan.json and figures.json. All budgets are checked before the model is loaded.

    Args:
        model: where the run's model is now, if it has moved.

    Raises:
        NirvanaError: a budget is no fraction, is there twice or cannot be reached; the model is
            another than the run's; the run lacks what the allocation needs.
    """
    check_run(run, budgets, config)
    source = model or run.source
    check_model(run, source)
    dense = load_dense(source, run.config.dtype)
    refuse_difference(
        {"weights": run.weights_hash},
        {"weights": dense.weights_hash},
        f"The scoring run {run.folder} is of another model than {source}: it",
    )
    figures = {}
    for budget in budgets:
        with place(budget) as folder:
            figures[budget] = prune_once(dense, run, config, budget, folder, say)
    return figures


def check_run(run: ScoringRun, budgets: Sequence[float], config: OneShotConfig) -> None:
    """Raise NirvanaError where a run cannot serve `config`, or not to one of the budgets."""
    check_budgets(budgets)
    asked = config.allocation
    if config.scoring != ScoringConfig():
        what = f"The scoring run {run.folder}"
        refuse_difference(describe_scoring(run.config), describe_scoring(config.scoring), what)
    if isinstance(asked, KlKnapsack) and asked != run.config.allocation:
        raise NirvanaError(
            f"The scoring run {run.folder} was made for {run.config.allocation}, and has no damage "
            f"curves as {asked} reads them. Score the model again with that allocation, or leave "
            "allocation unset."
        )
    for budget in budgets:
        allocate_budget(run, config, budget)


def check_model(run: ScoringRun, source: str) -> None:
    """Raise NirvanaError where a model's config is not that of the run; weights are not read."""
    found = read_model(build_skeleton(resolve_model(source))).current.config_hash
    if found != run.config_hash:
        raise NirvanaError(
            f"The scoring run {run.folder} is of another model than {source}: its config has the "
            f"hash {run.config_hash[:12]}, this one {found[:12]}. Give the model that was scored, "
            "or score this one."
        )


def prune_once(
    dense: DenseModel,
    run: ScoringRun,
    config: OneShotConfig,
    budget: float,
    folder: Path,
    say: Say | None = None,
) -> dict[str, Any]:
    """Prune to one budget into `folder`; the dense model is as it was afterwards."""
    started = time.monotonic()
    task = dense.task(run.calibration)
    batch = task.batches[0]
    with restored_outputs(task):
        layers, styles = prune_to_budget(
            task, run, config, budget, _name(say, f"prune to {budget:g}")
        )
        masked_logits = predict(dense.model, batch)
        plan = plan_for(dense.model, layers, **_describe_making(run, config, budget))
        smaller = repack(dense.model, plan)
    dtype = dense.model.dtype
    smaller_logits = predict(smaller, batch)
    proofs = [prove_equal("repacked", "masked", smaller_logits, masked_logits, batch, dtype)]
    save_pruned(smaller, folder / CHECKPOINT_FOLDER, dense.tokenizer)
    plan.save(folder / "plan.json")
    loaded = load_pruned(folder / CHECKPOINT_FOLDER, dtype="auto").eval().to(smaller.device)
    proofs.append(
        prove_equal("loaded", "saved", predict(loaded, batch), smaller_logits, batch, dtype)
    )
    whole = PruningPlan.dense(plan.dims, plan.config_hash)
    figures = {
        "method": "one-shot",
        "saliency": run.config.saliency,
        "allocation": type(config.allocation or run.config.allocation).__name__,
        "repair": type(config.repair).__name__,
        # Blocks that add up in a way of their own: their residual error was not made up for.
        "uncorrected_layers": [n for n, style in styles.items() if style == "other"],
        "budget": describe_budget(plan, config, budget),
        "dense": describe_size(dense.model, whole, config),
        "pruned": describe_size(smaller, plan, config),
        "calibration": compare_with_dense(dense.model, smaller, run.calibration),
        "held_out": None
        if run.held_out is None
        else compare_with_dense(dense.model, smaller, run.held_out),
        "proofs": proofs,
        "layers": describe_layers(plan),
        "seconds": time.monotonic() - started,
    }
    (folder / FIGURES_FILE).write_text(json.dumps(figures, indent=1) + "\n")
    return figures


@contextlib.contextmanager
def restored_outputs(task: ScoringTask) -> Iterator[None]:
    """Put the output projections of all sub-blocks back in place when the block ends."""
    kept = [
        (parameter, parameter.detach().clone())
        for site in task.sites.values()
        for parameter in site.output.parameters()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, before in kept:
                parameter.copy_(before)


def describe_budget(plan: PruningPlan, config: OneShotConfig, budget: float) -> dict[str, Any]:
    """Return what was asked and what is kept, and how far the one is below the other."""
    cost = config.cost_model
    kept, whole = plan_cost(plan, cost), dense_cost(plan.dims, cost)
    return {
        "cost": config.cost,
        "asked_kept_fraction": budget,
        "kept_fraction": kept / whole,
        "spare_fraction": budget - kept / whole,
        "kept_cost": kept,
        "dense_cost": whole,
        "unit_cost": _largest_step(plan, config),
        "sequence_length": config.sequence_length if config.cost == "macs" else None,
    }


def describe_size(model: Any, plan: PruningPlan, config: OneShotConfig) -> dict[str, int]:
    """Return sizes; block MACs are those of one sequence of `config.sequence_length` tokens."""
    length = config.sequence_length
    return {
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "block_parameters": plan_cost(plan, ParameterCost()),
        "block_macs": plan_cost(plan, MacCost(length)) * length,
        "size_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
    }


def _largest_step(plan: PruningPlan, config: OneShotConfig) -> int:
    """Return what the next larger step of one sub-block costs at most: the spare is below it."""
    cost, constraints = config.cost_model, config.constraints
    groups = max(constraints.min_groups, constraints.tensor_parallel)
    steps = []
    for stack in plan.dims.stacks:
        times = stack.num_layers if constraints.uniform else 1
        num_groups = min(groups, stack.num_kv_heads)
        one = cost.attention_cost(stack, num_groups * stack.heads_per_group, num_groups)
        neurons = min(2 * constraints.neuron_multiple, stack.intermediate_size)
        neurons = max(neurons, min(constraints.min_neurons, stack.intermediate_size))
        steps += [times * one, times * cost.mlp_cost(stack, neurons)]
    return max(steps)


def _describe_making(run: ScoringRun, config: OneShotConfig, budget: float) -> dict[str, Any]:
    return {
        "method": "one-shot",
        "saliency": run.config.saliency,
        "allocation": type(config.allocation or run.config.allocation).__name__,
        "repair": type(config.repair).__name__,
        "budget": budget,
        "cost": config.cost,
        "sequence_length": config.sequence_length if config.cost == "macs" else None,
        "constraints": dataclasses.asdict(config.constraints),
        "calibration_sha256": run.calibration.sha256,
        "seed": run.config.calibration.seed,
    }


def _name(say: Say | None, what: str) -> Callable[[int, int], None] | None:
    return None if say is None else lambda done, whole: say(what, done, whole)


def summarise(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the first figures as (what, value) for a person to read."""
    budget = figures["budget"]
    rows = [
        (
            f"kept of the blocks' {'MACs' if budget['cost'] == 'macs' else budget['cost']}",
            f"{budget['kept_fraction']:.2%} (asked: {budget['asked_kept_fraction']:.2%}, "
            f"{budget['spare_fraction']:.3%} below)",
        )
    ]
    for name in ("calibration", "held_out"):
        part = figures[name]
        if part is not None:
            rows.append((f"KL to dense, {name.replace('_', ' ')}", _show_part(part)))
    sizes = [figures[name]["size_bytes"] / 1e6 for name in ("dense", "pruned")]
    return [*rows, ("checkpoint size", f"{sizes[0]:.1f} MB -> {sizes[1]:.1f} MB")]


def _show_part(part: Mapping[str, Any]) -> str:
    text = f"{part['kl_divergence']:.4f} nats"
    if part["dense_loss"] is not None:
        text += f" (loss {part['dense_loss']:.3f} -> {part['pruned_loss']:.3f})"
    return text
