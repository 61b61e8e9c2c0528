"""Prune: by learned gates, by scores, by a plan; and a loaded model in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana_deploy.runs.deploy_result import OneShotResult, PruneResult
from nirvana_deploy.runs.pipeline import run_stages, say_on_stderr
from nirvana_deploy.runs.recipe import Recipe
from nirvana_deploy.runs.run_folder import free_folder
from profiles.latency.latency_config import LatencyConfig
from pruning.checkpoints.model_source import require_weights
from pruning.checkpoints.remote_code import is_remote_code_allowed
from pruning.gates.prune_config import PruneConfig
from pruning.machine_limits import explain_limits, explained
from pruning.oneshot.oneshot_config import OneShotConfig, ScoringConfig, check_budgets
from pruning.plans.plan import PruningPlan
from pruning.progress import CountProgress, Progress, Say
from pruning.tasks.data_config import DataConfig, require_data
from pruning.training.training_configs import BaselineConfig
from pruning.write_aside import write_new_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from pruning.cutting.proof import Proof
    from pruning.cutting.repack_checkpoint import RepackResult
    from pruning.oneshot.oneshot_config import Pricing
    from pruning.plans.plan import LayerPlan
    from pruning.scoring.scoring_run import ScoringRun


@explained("prune")
def prune(
    model: str | Path,
    config: PruneConfig | OneShotConfig | None = None,
    *,
    out: Path | str,
    data: DataConfig | None = None,
    baseline: BaselineConfig | None = None,
    fine_tuned: bool = False,
    latency: LatencyConfig | None = None,
    say: Say | None = None,
) -> PruneResult:
    """Fine-tune a model and prune it to the budget, in the run folder `out`.

    It is pruned by gates that learn what goes; with an OneShotConfig by scores, without training.
    With `fine_tuned` the model does the data set's task already and is pruned as it is. With
    `latency` the budget is in milliseconds, in place of `config.budget`.
    Called again with the same `out`, it goes on where it was interrupted.
    """
    recipe = Recipe(
        model=str(model),
        out=str(out),
        data=data or DataConfig(),
        baseline=baseline or BaselineConfig(),
        prune=config or PruneConfig(),
        latency=latency,
        fine_tuned=fine_tuned,
        trust_remote_code=is_remote_code_allowed(),
    )
    require_weights(recipe.model)
    require_data(recipe.data.dataset)
    from nirvana_deploy.runs.deploy_fit import check_rows
    from nirvana_deploy.runs.deploy_stages import list_pruning_stages

    say = say or say_on_stderr
    check_rows(recipe, say)
    stages = list_pruning_stages(recipe)
    outcome = run_stages(recipe, recipe.out_dir, stages, say)
    folder = outcome.folders["prune"]
    return PruneResult(
        checkpoint=folder / "checkpoint",
        plan=folder / "plan.json",
        figures=outcome.results["prune"],
    )


@explained("prune")
def apply_plan(
    model: str | Path,
    plan: PruningPlan | Path | str,
    *,
    out: Path | str,
    replace: bool = False,
    force: bool = False,
    progress: CountProgress | None = None,
) -> RepackResult:
    """Cut a plan into a checkpoint, dense or pruned before, from disk to disk, into `out`.

    Only one tensor at a time is in memory. With `replace`, a checkpoint that is in `out` is
    replaced once the new one is whole. `progress` gets the bytes read so far, and of all. With
    `force`, a plan that was made on other weights of the same sizes is applied too.

    Raises:
        NirvanaError: the plan does not fit the model, naming layer and number, or was made on other
            weights; the weights are missing, corrupt, quantized, or not those of the config; `out`
            is not free.
    """
    given = plan if isinstance(plan, PruningPlan) else PruningPlan.load(Path(plan))
    if not replace:
        free_folder(Path(out))
    require_weights(str(model))
    from pruning.cutting.repack_checkpoint import repack_checkpoint

    with explain_limits("prune", Path(out)):
        return repack_checkpoint(
            str(model), given, out, replace=replace, force=force, progress=progress
        )


@explained("score")
def score(
    model: str | Path,
    config: ScoringConfig | None = None,
    *,
    out: Path | str,
    progress: Progress | None = None,
) -> ScoringRun:
    """Score the units of a dense model, once for any number of budgets, into the folder `out`.

    Called again with the same arguments, it goes on where it was interrupted. `progress` gets what
    is done, how much of it, and of how much.

    Raises:
        NirvanaError: the model cannot be pruned or takes no text, there is too little text to
            calibrate on, or `out` holds something else, or a run with other settings.
    """
    config = config or ScoringConfig()
    require_weights(str(model))
    require_data(config.calibration.source)
    from pruning.scoring.score_model import score_model

    with explain_limits("score", Path(out), resumes=True):
        return score_model(str(model), config, out, progress=progress)


@explained("prune")
def prune_from_scores(
    run: ScoringRun | Path | str,
    budgets: Sequence[float],
    config: OneShotConfig | None = None,
    *,
    out: Path | str,
    model: str | Path | None = None,
    data: DataConfig | None = None,
    progress: Progress | None = None,
    latency: LatencyConfig | None = None,
    pricing: Pricing | None = None,
    say: Say | None = None,
) -> tuple[OneShotResult, ...]:
    """Prune the model of a scoring run to each budget; a budget's folder appears when it is whole.

    One budget goes into `out`, several into `out/0.7`, `out/0.5` and so on: a checkpoint, its plan
    and the figures. Of `config`, `budget` is not looked at. `model` says where the run's model is
    now, if it has moved; `data` is what `config.recovery` trains on, and what both models are
    scored on. With `latency` there is one budget, in milliseconds, in place of `budgets`; with
    `pricing` budgets are fractions of what it counts. `say` gets what was
    found of `data`, by default on the standard error.

    Raises:
        NirvanaError: a budget cannot be reached or is there twice, the run is damaged or of another
            model, or a folder is not free. All of that is looked at before any work.
    """
    from pruning.scoring.scoring_run import ScoringRun, load_run

    if latency is None:
        check_budgets(budgets)
    free_folder(Path(out))
    if data is not None:
        require_data(data.dataset)
    if model is not None:
        require_weights(str(model))
    found = run if isinstance(run, ScoringRun) else load_run(run)
    if latency is not None:
        budgets, pricing = _price_latency(found, latency, config, model, progress)
        check_budgets(budgets)
    folders = {b: Path(out) if len(budgets) == 1 else Path(out) / f"{b:g}" for b in budgets}
    for folder in folders.values():
        free_folder(folder)
    from pruning.oneshot.prune_with_scores import prune_with_scores

    figures = prune_with_scores(
        found,
        budgets,
        config or OneShotConfig(),
        lambda budget: write_new_folder(folders[budget], "prune"),
        model=None if model is None else str(model),
        data=data,
        progress=progress,
        say=say or say_on_stderr,
        pricing=pricing,
    )
    return tuple(
        OneShotResult(
            budget=budget,
            checkpoint=folder / "checkpoint",
            plan=folder / "plan.json",
            figures=figures[budget],
        )
        for budget, folder in folders.items()
    )


def _price_latency(
    run: ScoringRun,
    latency: LatencyConfig,
    config: OneShotConfig | None,
    model: str | Path | None,
    progress: Progress | None,
) -> tuple[tuple[float], Pricing]:
    from nirvana_deploy.latency_pricing import price_latency

    constraints = (config or OneShotConfig()).constraints
    source = run.source if model is None else str(model)
    fraction, pricing = price_latency(
        run.dims, latency, constraints, model=source, progress=progress
    )
    return (fraction,), pricing


def plan_for(model: PreTrainedModel, layers: Sequence[LayerPlan], **made_by: object) -> PruningPlan:
    """Make a plan from what each layer of a loaded model keeps: encoder layers, then decoder's.

    For a model that was pruned before, `layers` count its present units, and the plan is relative
    to the dense model that it came from. `made_by` is kept with the plan, for people and reports.
    """
    from pruning.cutting import repack as module

    return module.plan_for(model, layers, **made_by)


def repack(model: PreTrainedModel, plan: PruningPlan, *, force: bool = False) -> PreTrainedModel:
    """Return a smaller model that computes what a loaded `model` does under the plan's masks.

    Raises:
        NirvanaError: the plan is of a model with other dimensions, or was made on other weights and
            `force` is not set.
    """
    from pruning.cutting import repack as module

    module.check_plan(model, plan, force=force)
    return module.repack(model, plan)


def prove(model: PreTrainedModel, *, seed: int = 0) -> Proof:
    """Compare random repacked versions of a loaded dense model with the model under their masks."""
    from pruning.cutting import wiring_inference

    return wiring_inference.prove(model, seed=seed)


@explained("save_pruned")
def save_pruned(
    model: PreTrainedModel,
    out: Path | str,
    tokenizer: Any = None,
    *,
    max_shard_size: int | str = "5GB",
    replace: bool = False,
) -> None:
    """Write a repacked model, and what goes with it, to the folder `out` when it is whole.

    With `replace`, a checkpoint that is there is replaced once the new one is whole.
    """
    from pruning.checkpoints import checkpoint

    checkpoint.save_pruned(model, out, tokenizer, max_shard_size=max_shard_size, replace=replace)
