"""Holds a recipe against its model before any work: what a stage after hours of training would say.

Each stage refuses what does not fit it, too; here its answer is known from the config and the task.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from exporters.engines.engine_config import EngineConfig
from nirvana_deploy.runs.deploy_stages import LEFT_OUT
from nirvana_deploy.runs.recipe import Recipe
from pruning.errors import NirvanaError
from pruning.gates.prune_config import PruneConfig
from pruning.gates.pruning_scheduler import check_num_rows
from pruning.oneshot.oneshot_config import OneShotConfig
from pruning.progress import Say

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedModel

    from pruning.tasks.task import Task

_DECODER, _ENCODER_DECODER = "causal-lm", "seq2seq"
_FEW_TEXTS = 4096  # of which there are enough rows in most cases, without tokenizing all texts


def check_fit(recipe: Recipe, say: Say = lambda _: None) -> dict[str, str]:
    """Return the stages that will be left out, each with the reason.

    The model's config and tokenizer are read, and the data set. `say` gets what was found of it.

    Raises:
        NirvanaError: the model is not there or cannot be pruned, has no head for the task, or a
            setting of a later stage does not fit it.
    """
    model, splits, task = _look(recipe)
    _check_latency(recipe, model)
    _check_export(recipe, task)
    _check_package(recipe, task, model)
    _check_build(recipe, task, model)
    if task.name != _ENCODER_DECODER:
        _check_profile(recipe, task, model)
    _check_rows(recipe, model, splits, say)  # last, since it reads all rows
    return dict(LEFT_OUT) if task.name == _ENCODER_DECODER else {}


def _look(recipe: Recipe) -> tuple[PreTrainedModel, DatasetDict, Task]:
    """Return the model without weights, its data, and the task, for which it has a head."""
    from pruning.checkpoints.model_skeleton import build_skeleton
    from pruning.checkpoints.model_source import resolve_model
    from pruning.tasks.data_config import find_columns
    from pruning.tasks.data_splits import load_splits
    from pruning.tasks.tasks import check_head, choose_task, recognise_task

    model = build_skeleton(resolve_model(recipe.model))
    own = recognise_task(model)
    splits = load_splits(recipe.data)
    columns = next(iter(splits.values())).column_names
    task = choose_task(find_columns(recipe.data, columns), columns, own)
    check_head(task, model, fine_tuned=recipe.fine_tuned)
    return model, splits, task


def check_rows(recipe: Recipe, say: Say = lambda _: None) -> None:
    """Refuse rows that a stage would refuse after others have worked; `say` what was found.

    Raises:
        NirvanaError: the data set cannot be loaded, its classes do not fit (or those of the model,
            where it is fine-tuned), or its rows are too few for a step per pruning stage.
    """
    model, splits, _ = _look(recipe)
    _check_rows(recipe, model, splits, say)


def _check_rows(recipe: Recipe, model: PreTrainedModel, splits: DatasetDict, say: Say) -> None:
    from pruning.tasks.tasks import recognise_task
    from pruning.tasks.text_data import check_text

    own = recognise_task(model)
    found = check_text(recipe.data, own, model if recipe.fine_tuned else None, splits)
    for line in found.told:
        say(line)
    if isinstance(recipe.prune, OneShotConfig):
        _check_calibration(recipe.prune)
    if not isinstance(recipe.prune, PruneConfig):
        return
    if found.num_rows is not None:
        check_num_rows(recipe.prune, found.num_rows)
        return
    try:
        check_num_rows(recipe.prune, _count_packed_rows(recipe, own, _FEW_TEXTS))
    except NirvanaError:
        check_num_rows(recipe.prune, _count_packed_rows(recipe, own, None))


def _check_calibration(prune: OneShotConfig) -> None:
    """Raise NirvanaError where no documents can be read to calibrate on."""
    from pruning.calibration.calibration_documents import load_documents

    load_documents(prune.scoring.calibration)


def _count_packed_rows(recipe: Recipe, own: Task | None, limit: int | None) -> int:
    """Return the number of rows into which at most `limit` training texts are packed."""
    from transformers import AutoTokenizer

    from pruning.checkpoints.model_source import load_stock_model
    from pruning.tasks.text_data import load_text

    asked = recipe.data.max_train_rows
    limits = [number for number in (limit, asked) if number is not None]
    data = replace(recipe.data, max_train_rows=min(limits) if limits else None)
    return len(load_text(data, load_stock_model(AutoTokenizer, recipe.model), own).train)


def _check_latency(recipe: Recipe, model: PreTrainedModel) -> None:
    if recipe.latency is not None and recipe.latency.is_measured and _has_encoder_beside(model):
        raise NirvanaError(
            "latency: no table is measured for encoder-decoders, this is a "
            f"{model.config.model_type}. Leave latency out and set prune.budget."
        )


def _has_encoder_beside(model: PreTrainedModel) -> bool:
    return bool(model.config.is_encoder_decoder)


def _check_export(recipe: Recipe, task: Task) -> None:
    config = recipe.export
    if config.graphs == "split" and task.name == _DECODER:
        raise NirvanaError(
            "export.graphs: a run profiles and packages a decoder as one graph, got split. Leave "
            "it out (merged), or export the checkpoint with `nirvana export`."
        )
    if config.cache_length is not None:
        raise NirvanaError(
            f"export.cache_length is {config.cache_length}: its graph is for an engine, and a run "
            "profiles and packages the graph itself. Leave it out, or go verb by verb: nirvana "
            "export, nirvana build."
        )


def _check_package(recipe: Recipe, task: Task, model: PreTrainedModel) -> None:
    config = recipe.package
    if config.profiles:
        raise NirvanaError(
            "package.profiles are those of an engine, and a run packages ONNX. Leave them out; "
            "`nirvana package --engine` serves an engine."
        )
    if config.to == "triton":
        return
    if task.name != _DECODER:
        raise NirvanaError(
            f"package.to: {config.to} serves decoders that generate (causal-lm), and the task is "
            f"{task.name}. Set package.to to triton."
        )
    _require_fast_tokenizer(recipe)
    if config.takes_checkpoint:
        _check_checkpoint_package(recipe, model)


def _require_fast_tokenizer(recipe: Recipe) -> None:
    from transformers import AutoTokenizer

    from pruning.checkpoints.model_source import load_stock_model

    if not load_stock_model(AutoTokenizer, recipe.model).is_fast:
        raise NirvanaError(
            f"package.to: {recipe.package.to} reads text by tokenizer.json, and {recipe.model} has "
            "a slow tokenizer. Save the model with its fast one, or set package.to to triton."
        )


def _check_checkpoint_package(recipe: Recipe, model: PreTrainedModel) -> None:
    from nirvana_deploy.serving.hub_checkpoint import STACKS
    from pruning.allocation.allocation_config import Uniform

    config, stack = recipe.package, STACKS[recipe.package.to]
    name = type(model).__name__
    if config.form != "padded" and name not in stack.architectures:
        raise NirvanaError(
            f"package.to: {stack.name} has no {name} of those that are known here: "
            f"{', '.join(sorted(stack.architectures))}. Set package.to to genai or triton."
        )
    prune = recipe.prune
    if isinstance(prune, OneShotConfig) and isinstance(prune.scoring.allocation, Uniform):
        return
    if config.form == "uniform":
        raise NirvanaError(
            f"package.form uniform is for layers that are alike, and what {stack.name} gets is "
            "pruned by layers that differ. Set package.form to padded or deci"
            f"{', or per-layer' if stack.per_layer else ''}; or prune by scores with "
            "prune.scoring.allocation {} (uniform)."
        )


def _check_profile(recipe: Recipe, task: Task, model: PreTrainedModel) -> None:
    config = recipe.profile
    for name in ("past", "generate"):
        if getattr(config, name) and task.name != _DECODER:
            raise NirvanaError(
                f"profile.{name} is for decoders (causal-lm), whose graph has a cache; the task is "
                f"{task.name}. Leave it out."
            )
    vocab_size = int(model.config.get_text_config().vocab_size)
    if config.vocab_size > vocab_size:
        raise NirvanaError(
            f"profile.vocab_size is {config.vocab_size}, and the model has {vocab_size} tokens. "
            f"Set it to at most {vocab_size}."
        )
    asked = "profile: length with past or generate"
    _check_positions(asked, config.num_positions, model)


def _check_build(recipe: Recipe, task: Task, model: PreTrainedModel) -> None:
    """Raise NirvanaError for shapes beyond the positions; those by default are cut to fit."""
    config, default = recipe.build, EngineConfig()
    if config.profiles:
        return  # compared with the graph's own inputs
    if config.length != default.length:
        _check_positions("build.length.max", config.length.max, model)
    if config.past != default.past and task.name in (_DECODER, _ENCODER_DECODER):
        _check_positions("build.past.max and the token after it", config.past.max + 1, model)


def _check_positions(what: str, asked: int, model: Any) -> None:
    from pruning.tasks.position_limit import count_positions

    limit = count_positions(model)
    if limit is not None and asked > limit:
        raise NirvanaError(
            f"{what} is {asked}, and {model.config.model_type} here has {limit} positions. Ask for "
            f"at most {limit}."
        )
