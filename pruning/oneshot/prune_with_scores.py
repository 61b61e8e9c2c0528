"""From a scoring run to pruned checkpoints, one a budget: allocate, repair, repack, prove, save."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from pruning.allocation.allocation_config import KlKnapsack
from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.checkpoints.model_fingerprint import list_fingerprints
from pruning.checkpoints.model_skeleton import build_skeleton
from pruning.checkpoints.model_source import resolve_model
from pruning.checkpoints.remote_code import is_remote_code_allowed
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.oneshot.fidelity import compare_with_dense, predict, prove_equal
from pruning.oneshot.oneshot_config import (
    OneShotConfig,
    Pricing,
    ScoringConfig,
    check_budgets,
    cost_of,
)
from pruning.oneshot.oneshot_figures import describe_latency, describe_spare
from pruning.oneshot.prune_to_budget import allocate_budget, prune_to_budget
from pruning.plans.plan import PruningPlan
from pruning.plans.plan_figures import describe_layers, describe_size
from pruning.progress import Progress, Say, name_progress
from pruning.scoring.saliency import ScoringTask
from pruning.scoring.score_model import DenseModel, load_dense
from pruning.scoring.scoring_run import ScoringRun
from pruning.scoring.scoring_settings import describe_scoring, refuse_difference
from pruning.strict_json import JsonObject
from pruning.tasks.data_config import DataConfig
from pruning.tasks.evaluation import evaluate_text
from pruning.tasks.tasks import check_head, recognise_task, settle_padding
from pruning.tasks.text_data import LabelledText, load_scored_text, load_text
from pruning.training.recovery import recover

FIGURES_FILE = "figures.json"
CHECKPOINT_FOLDER = "checkpoint"
RECOVERY_FOLDER = "trainer"

Place = Callable[[float], AbstractContextManager[Path]]


def prune_with_scores(
    run: ScoringRun,
    budgets: Sequence[float],
    config: OneShotConfig,
    place: Place,
    *,
    model: str | None = None,
    data: DataConfig | None = None,
    progress: Progress | None = None,
    say: Say = lambda _: None,
    pricing: Pricing | None = None,
) -> dict[float, JsonObject]:
    """Prune the model of a scoring run to each budget, and return the figures of each.

    Of `config`, `budget` is not looked at. `place(budget)` gives a folder to write in, which gets
    checkpoint/, plan.json and figures.json. All budgets are checked before the model is loaded.

    Args:
        model: where the run's model is now, if it has moved.
        data: what recovery trains on, and both models are scored on: its validation rows, or
            without recovery all rows of a file. Only recovery needs some.
        tell: gets what was found of `data`, in lines.
        pricing: what the budgets are fractions of, in place of `config.cost`.

    Raises:
        NirvanaError: a budget is no fraction, is there twice or cannot be reached; the model is
            another than the run's; the run lacks what the allocation needs.
    """
    check_run(run, budgets, config, pricing)
    source = model or run.source
    check_model(run, source)
    dense = load_dense(source, run.config.dtype)
    refuse_difference(
        {"weights": run.weights_hash},
        {"weights": dense.weights_hash},
        f"The scoring run {run.folder} is of another model than {source}: it",
    )
    text = None
    if config.recovery is not None:
        text = load_task_text(dense, data or DataConfig())
    elif data is not None:
        text = load_scored_text(data, dense.tokenizer, recognise_task(dense.model), dense.model)
        check_head(text.task, dense.model, fine_tuned=True)
        settle_padding(text.task, dense.model, dense.tokenizer)
    for line in () if text is None else text.told:
        say(line)
    before = None if text is None else evaluate_text(dense.model, text, dense.tokenizer)
    figures = {}
    for budget in budgets:
        with place(budget) as folder:
            figures[budget] = prune_once(
                dense,
                run,
                config,
                budget,
                folder,
                text=text,
                before=before,
                progress=progress,
                pricing=pricing,
            )
            shutil.rmtree(folder / RECOVERY_FOLDER, ignore_errors=True)
    return figures


def check_run(
    run: ScoringRun,
    budgets: Sequence[float],
    config: OneShotConfig,
    pricing: Pricing | None = None,
) -> None:
    """Raise NirvanaError where a run cannot serve `config`, or not to one of the budgets."""
    check_budgets(budgets)
    asked = config.allocation
    if config.scoring != ScoringConfig():
        what = f"The scoring run {run.folder}"
        refuse_difference(describe_scoring(run.config), describe_scoring(config.scoring), what)
    # By its name alone it is the one that the run has curves for.
    same = asked in (run.config.allocation, KlKnapsack()) and run.curves is not None
    if isinstance(asked, KlKnapsack) and not same:
        raise NirvanaError(
            f"The scoring run {run.folder} was made for {run.config.allocation}, and has no damage "
            f"curves as {asked} reads them. Score the model again with that allocation, or leave "
            "allocation unset."
        )
    for budget in budgets:
        allocate_budget(run, config, budget, pricing)


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
    *,
    text: LabelledText | None = None,
    before: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    pricing: Pricing | None = None,
) -> JsonObject:
    """Prune to one budget into `folder`; the dense model is as it was afterwards.

    With `before`, the scores of the dense model on the validation rows of `text`, the pruned one
    is scored, too. Returns the figures. Recovery resumes from what it left in `folder` under
    RECOVERY_FOLDER.
    """
    started = time.monotonic()
    task = dense.task(run.calibration)
    batch = task.batches[0]
    weights = list_fingerprints(dense.model, read_model(dense.model))  # before repair changes them
    with restored_outputs(task):
        layers, styles = prune_to_budget(
            task, run, config, budget, name_progress(progress, f"prune to {budget:g}"), pricing
        )
        masked_logits = predict(dense.model, batch)
        plan = plan_for(dense.model, layers, **_describe_making(run, config, budget, pricing))
        plan = dataclasses.replace(plan, weights=weights)
        smaller = repack(dense.model, plan)
    dtype, num_rows = dense.model.dtype, len(batch["input_ids"])
    proofs = [
        prove_equal("repacked", "masked", predict(smaller, batch), masked_logits, num_rows, dtype)
    ]
    curve: list[dict[str, object]] = []
    if config.recovery is not None:
        assert text is not None
        work = folder / RECOVERY_FOLDER
        curve = recover(smaller, dense.model, text, dense.tokenizer, config.recovery, work)
        smaller.eval()
    smaller_logits = predict(smaller, batch)
    save_pruned(smaller, folder / CHECKPOINT_FOLDER, dense.tokenizer)
    plan.save(folder / "plan.json")
    loaded = load_pruned(folder / CHECKPOINT_FOLDER, dtype="auto").eval().to(smaller.device)
    proofs.append(
        prove_equal("loaded", "saved", predict(loaded, batch), smaller_logits, num_rows, dtype)
    )
    whole = PruningPlan.dense(plan.dims, plan.config_hash)
    scored: JsonObject = {}
    after: Mapping[str, float] = {}
    if text is not None and before is not None:
        after = evaluate_text(loaded, text, dense.tokenizer)
        scored = {"task": text.task.name, "metric": text.task.metric, "scores": list(before)}
    figures = {
        "method": "one-shot",
        **scored,
        "saliency": run.config.saliency,
        "allocation": type(config.allocation or run.config.allocation).__name__,
        "repair": type(config.repair).__name__,
        "recovered": config.recovery is not None,
        "curve": curve,
        # Blocks that add up in a way of their own: their residual error was not made up for.
        "uncorrected_layers": [n for n, style in styles.items() if style == "other"],
        "budget": describe_spare(plan, config, budget, pricing),
        **({} if pricing is None else {"latency": describe_latency(plan, pricing)}),
        "dense": {
            **(before or {}),
            **describe_size(dense.model, whole, config.sequence_length),
        },
        "pruned": {**after, **describe_size(smaller, plan, config.sequence_length)},
        "calibration": compare_with_dense(dense.model, smaller, run.calibration),
        "held_out": None
        if run.held_out is None
        else compare_with_dense(dense.model, smaller, run.held_out),
        "proofs": proofs,
        "trust_remote_code": is_remote_code_allowed(),
        "layers": describe_layers(plan),
        "seconds": time.monotonic() - started,
    }
    (folder / FIGURES_FILE).write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def load_task_text(dense: DenseModel, data: DataConfig) -> LabelledText:
    """Load the rows of the dense model's own task, and hold their classes against its head."""
    text = load_text(data, dense.tokenizer, recognise_task(dense.model), dense.model)
    check_head(text.task, dense.model, fine_tuned=True)
    settle_padding(text.task, dense.model, dense.tokenizer)
    return text


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


def _describe_making(
    run: ScoringRun, config: OneShotConfig, budget: float, pricing: Pricing | None
) -> dict[str, object]:
    cost = cost_of(config, pricing)
    return {
        "method": "one-shot",
        "saliency": run.config.saliency,
        "allocation": type(config.allocation or run.config.allocation).__name__,
        "repair": type(config.repair).__name__,
        "budget": budget,
        "cost": cost.name,
        "sequence_length": config.sequence_length if cost.name == "macs" else None,
        **({} if pricing is None else {"latency": dict(pricing.about)}),
        "constraints": dataclasses.asdict(config.constraints),
        "calibration_sha256": run.calibration.sha256,
        "seed": run.config.calibration.seed,
    }
