"""The stages of a deployment: what each obeys, reads and does, and their order.

Each stage imports its work where it runs, so that a skipped stage costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from nirvana_deploy.config_reader import to_plain
from nirvana_deploy.fingerprints import describe_processor, fingerprint_dataset, fingerprint_model
from nirvana_deploy.runs.recipe import Recipe
from nirvana_deploy.runs.stage import Stage, StageInputs
from pruning.errors import MissingExtraError
from pruning.gates.prune_config import PruneConfig
from pruning.oneshot.oneshot_config import OneShotConfig

if TYPE_CHECKING:
    from pruning.oneshot.oneshot_config import Pricing

_TABLE_FILE = "table.json"
_ONNX_PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu")
_TRAINING_PACKAGES = ("torch", "transformers", "datasets", "accelerate")
# What a run does not do with the several graphs of an encoder-decoder, and what does.
LEFT_OUT = {
    "profile": "An encoder-decoder is three graphs, and no one call of them is its latency: each "
    "is measured by itself, such as `nirvana profile` of both encoder_model.onnx in export.",
    "package": "No server is packaged for an encoder-decoder's three graphs: `load` of "
    "export/pruned runs them in ONNX Runtime and generates.",
}

SWITCHED_OFF = {"status": "skipped", "reason": "The recipe switches it off."}


def _fine_tune(inputs: StageInputs, out_dir: Path) -> Mapping[str, object]:
    from pruning.training.baseline_stage import run_baseline

    recipe = inputs.recipe
    return run_baseline(recipe.model, recipe.data, recipe.baseline, out_dir, say=inputs.say)


def _prune(inputs: StageInputs, out_dir: Path) -> Mapping[str, object]:
    from pruning.gates.prune_stage import run_prune

    recipe = inputs.recipe
    budget, pricing = _price_budget(inputs)
    assert isinstance(recipe.prune, PruneConfig)
    config = replace(recipe.prune, budget=budget)
    return run_prune(_find_dense(inputs), recipe.data, config, out_dir, pricing)


def _score(inputs: StageInputs, out_dir: Path) -> Mapping[str, object]:
    from pruning.oneshot.oneshot_stage import run_score

    assert isinstance(inputs.recipe.prune, OneShotConfig)
    return run_score(_find_dense(inputs), inputs.recipe.prune, out_dir, progress=inputs.progress)


def _prune_by_scores(inputs: StageInputs, out_dir: Path) -> Mapping[str, object]:
    from pruning.oneshot.oneshot_stage import run_oneshot

    recipe, scores = inputs.recipe, inputs.folders["score"] / "scores"
    budget, pricing = _price_budget(inputs)
    assert isinstance(recipe.prune, OneShotConfig)
    config = replace(recipe.prune, budget=budget)
    return run_oneshot(
        _find_dense(inputs),
        scores,
        recipe.data,
        config,
        out_dir,
        pricing,
        progress=inputs.progress,
    )


def _measure_latency(inputs: StageInputs, out_dir: Path) -> Mapping[str, object]:
    from nirvana_deploy.latency_pricing import measure_latency_table

    config = inputs.recipe.latency
    assert config is not None
    if config.is_measured:
        table = measure_latency_table(str(_find_dense(inputs)), config)
        table.save(out_dir / _TABLE_FILE)
    # Told before anything is learned: a budget that cannot be reached, a target that is not known.
    fraction, pricing = _price(inputs, out_dir)
    return {**pricing.about, "kept_fraction": fraction}


def _price_budget(inputs: StageInputs) -> tuple[float, Pricing | None]:
    """Return the fraction to keep, and of what where the recipe asks for milliseconds."""
    if inputs.recipe.latency is None:
        return inputs.recipe.prune.budget, None
    return _price(inputs, inputs.folders["latency"])


def _price(inputs: StageInputs, folder: Path) -> tuple[float, Pricing]:
    from nirvana_deploy.latency_pricing import price_by_table
    from profiles.latency.latency_table import LatencyTable
    from pruning.checkpoints.model_skeleton import build_skeleton
    from pruning.cutting.wiring_inference import read_model

    config = inputs.recipe.latency
    assert config is not None
    table = LatencyTable.load(folder / _TABLE_FILE) if config.is_measured else None
    dims = read_model(build_skeleton(str(_find_dense(inputs)))).dims
    return price_by_table(dims, config, inputs.recipe.prune.constraints, table)


def _find_dense(inputs: StageInputs) -> Path:
    """Return the fine-tuned model: the baseline's, or in a run without one the model as it is."""
    if "baseline" in inputs.folders:
        return inputs.folders["baseline"] / "checkpoint"
    from pruning.checkpoints.model_source import resolve_model

    return Path(resolve_model(inputs.recipe.model))


def _export(inputs: StageInputs, out_dir: Path) -> Mapping[str, object]:
    from exporters.export_stage import run_export

    return run_export(
        _find_dense(inputs),
        inputs.folders["prune"] / "checkpoint",
        inputs.recipe.export,
        out_dir,
        progress=inputs.progress,
    )


def _build(inputs: StageInputs, out_dir: Path) -> Mapping[str, object]:
    from exporters.engines.build_engine import build_engine

    try:
        if _has_several_graphs(inputs):
            return {"status": "built", "engines": _build_each(inputs, out_dir)}
        result = build_engine(
            _pruned_onnx(inputs), out_dir, inputs.recipe.build, _count_attentions(inputs)
        )
    except MissingExtraError as error:
        return _describe_skip(error)
    return result.to_json()


def _build_each(inputs: StageInputs, out_dir: Path) -> list[dict[str, object]]:
    """Build an engine of each graph, in a folder of its name; a graph's own attentions count."""
    from exporters.engines.build_engine import build_engine

    folder = inputs.folders["export"] / "pruned"
    graphs = inputs.results["export"]["pruned"]["graphs"]
    engines = []
    for name, graph in graphs.items():
        built = build_engine(folder / graph["file"], out_dir / name, inputs.recipe.build).to_json()
        engines.append({**built, "graph": name, "engine_path": f"{name}/{built['engine_path']}"})
    return engines


def _profile(inputs: StageInputs, _: Path) -> Mapping[str, object]:
    if _has_several_graphs(inputs):
        return _leave_out("profile")
    from profiles.comparing.profile_artefacts import profile_artefacts

    dense = inputs.folders["export"] / "dense" / "model.onnx"
    return profile_artefacts(str(dense), str(_pruned_onnx(inputs)), inputs.recipe.profile).to_json()


def _package(inputs: StageInputs, out_dir: Path) -> Mapping[str, object]:
    if _has_several_graphs(inputs):
        return _leave_out("package")
    from nirvana_deploy.serving.package import package_model
    from nirvana_deploy.serving.package_config import choose_sources

    config = inputs.recipe.package
    model = _pruned_onnx(inputs)
    if config.takes_checkpoint:
        model = inputs.folders["prune"] / "checkpoint"
    # A folder a server: a package wants one of its own.
    try:
        package = package_model(choose_sources(config, model), out_dir / config.to, config)
    except MissingExtraError as error:
        return _describe_skip(error)
    result = package.to_json()
    return {
        **result,
        "folder": PurePosixPath(config.to, result["folder"]).as_posix(),
        "files": [f"{config.to}/{name}" for name in result["files"]],
    }


def _describe_skip(error: MissingExtraError) -> dict[str, str]:
    """Say what was asked and not done: the result carries it, and so the report."""
    return {
        "status": "skipped",
        "reason": str(error).split(". ")[0] + ".",
        "install": f"pip install 'nirvana-deploy[{error.extra}]'",
    }


def _switch_off(_: StageInputs, __: Path) -> Mapping[str, object]:
    return SWITCHED_OFF


def _leave_out(stage: str) -> dict[str, str]:
    return {"status": "skipped", "reason": LEFT_OUT[stage]}


def _has_several_graphs(inputs: StageInputs) -> bool:
    """Tell the export of an encoder-decoder that generates."""
    return len(inputs.results["export"]["pruned"]["graphs"]) > 1


def _pruned_onnx(inputs: StageInputs) -> Path:
    return inputs.folders["export"] / "pruned" / "model.onnx"


def _count_attentions(inputs: StageInputs) -> int:
    layers = inputs.results["prune"]["layers"]
    kept = ("kept_heads", "kept_cross_heads")
    return sum(bool(layer.get(name)) for layer in layers for name in kept)


def _model_and_data(recipe: Recipe) -> dict[str, object]:
    return {"model": fingerprint_model(recipe.model), **_data_only(recipe)}


def _read_calibration(recipe: Recipe) -> dict[str, object]:
    assert isinstance(recipe.prune, OneShotConfig)
    return {"calibration": fingerprint_dataset(recipe.prune.scoring.calibration.source)}


def _data_only(recipe: Recipe) -> dict[str, object]:
    return {"data": fingerprint_dataset(recipe.data.dataset)}


def _settings(*sections: str) -> Any:
    def select(recipe: Recipe) -> dict[str, object]:
        return {section: to_plain(getattr(recipe, section)) for section in sections}

    return select


def _scoring_settings(recipe: Recipe) -> dict[str, object]:
    assert isinstance(recipe.prune, OneShotConfig)
    return {"prune": {"scoring": to_plain(recipe.prune.scoring)}}


def _latency_settings(recipe: Recipe) -> dict[str, object]:
    constraints = to_plain(recipe.prune.constraints)
    return {"latency": to_plain(recipe.latency), "prune": {"constraints": constraints}}


def _budget_settings(recipe: Recipe) -> dict[str, object]:
    """Return what a scoring run serves many of: a change needs no new scores."""
    plain = to_plain(recipe.prune)
    del plain["scoring"]
    return {"data": to_plain(recipe.data), "prune": plain}


def _with_model(sources: Any) -> Any:
    return lambda recipe: {"model": fingerprint_model(recipe.model), **sources(recipe)}


BASELINE = Stage(
    name="baseline",
    settings=_settings("model", "data", "baseline"),
    sources=_model_and_data,
    run=_fine_tune,
    packages=_TRAINING_PACKAGES,
    scratch=("trainer",),
)
PRUNE = Stage(
    name="prune",
    reads=("baseline",),
    settings=_settings("data", "prune"),
    sources=_data_only,
    run=_prune,
    packages=_TRAINING_PACKAGES,
    scratch=("trainer",),
)
# For a model that is fine-tuned already; it takes the place of the two above.
PRUNE_FINE_TUNED = replace(
    PRUNE, reads=(), settings=_settings("model", "data", "prune"), sources=_model_and_data
)
# Without training: these two take the place of PRUNE.
SCORE = Stage(
    name="score",
    reads=("baseline",),
    settings=_scoring_settings,
    sources=_read_calibration,
    run=_score,
    packages=_TRAINING_PACKAGES,
    scratch=("scoring",),
)
PRUNE_BY_SCORES = Stage(
    name="prune",
    reads=("baseline", "score"),
    settings=_budget_settings,
    sources=_data_only,
    run=_prune_by_scores,
    packages=_TRAINING_PACKAGES,
    scratch=("trainer",),
)
SCORE_FINE_TUNED = replace(SCORE, reads=(), sources=_with_model(_read_calibration))
PRUNE_FINE_TUNED_BY_SCORES = replace(
    PRUNE_BY_SCORES, reads=("score",), sources=_with_model(_data_only)
)
# With a budget in milliseconds: it comes before what prunes, which then reads it.
LATENCY = Stage(
    name="latency",
    reads=("baseline",),
    settings=_latency_settings,
    sources=lambda _: describe_processor(),
    run=_measure_latency,
    packages=("torch", "transformers", "onnxscript", *_ONNX_PACKAGES),
)
LATENCY_FINE_TUNED = replace(LATENCY, reads=(), sources=_with_model(lambda _: describe_processor()))
EXPORT = Stage(
    name="export",
    reads=("baseline", "prune"),
    settings=_settings("export"),
    run=_export,
    packages=("torch", "transformers", "onnxscript", *_ONNX_PACKAGES),
)
EXPORT_FINE_TUNED = replace(EXPORT, reads=("prune",), sources=_with_model(lambda _: {}))
BUILD = Stage(
    name="build",
    reads=("prune", "export"),
    settings=_settings("build"),
    run=_build,
    packages=("tensorrt", "tensorrt-rtx-cu13", *_ONNX_PACKAGES),
)
PROFILE = Stage(
    name="profile",
    reads=("export",),
    settings=_settings("profile"),
    sources=lambda _: describe_processor(),
    run=_profile,
    packages=("onnxruntime", "onnxruntime-gpu"),
)
PACKAGE = Stage(
    name="package",
    reads=("prune", "export"),
    settings=_settings("package"),
    run=_package,
    packages=("tritonclient",),
)

_SERVING = (BUILD, PROFILE, PACKAGE)


def list_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages from the model to the server folder, in order."""
    export = EXPORT_FINE_TUNED if recipe.fine_tuned else EXPORT
    stages = (
        replace(stage, reads=(), settings=lambda _: SWITCHED_OFF, run=_switch_off)
        if stage.name in recipe.skip
        else stage
        for stage in (export, *_SERVING)
    )
    return (*list_pruning_stages(recipe), *stages)


def list_pruning_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages to the pruned model: by gates or by scores, as the recipe says."""
    fine_tuned = recipe.fine_tuned
    if isinstance(recipe.prune, OneShotConfig):
        by_scores = (SCORE_FINE_TUNED, PRUNE_FINE_TUNED_BY_SCORES)
        stages: tuple[Stage, ...] = by_scores if fine_tuned else (BASELINE, SCORE, PRUNE_BY_SCORES)
    else:
        stages = (PRUNE_FINE_TUNED,) if fine_tuned else (BASELINE, PRUNE)
    if recipe.latency is None:
        return stages
    priced = replace(stages[-1], reads=(*stages[-1].reads, LATENCY.name))
    if fine_tuned:
        return (LATENCY_FINE_TUNED, *stages[:-1], priced)
    return (BASELINE, LATENCY, *stages[1:-1], priced)
