"""Compares a recipe with its model before any work: what a stage after hours of training would say.

Each config has a `check` of its own, which its stage calls, too; here it is called for all of them,
on the model without weights. Besides, some settings are not for runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from nirvana_deploy.runs.deploy_stages import LEFT_OUT, SWITCHED_OFF
from nirvana_deploy.runs.recipe import Recipe
from pruning.allocation.allocation_config import Uniform
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
    _refuse_settings(recipe, task)
    if recipe.latency is not None:
        with _named("latency"):
            recipe.latency.check(model)
    off = dict.fromkeys(recipe.skip, SWITCHED_OFF["reason"])
    if "export" not in off:
        with _named("export"):
            recipe.export.check(model)
    if "package" not in off:
        with _named("package"):
            recipe.package.check(model, task.name, alike=_is_alike(recipe))
        if recipe.package.to != "triton":
            _require_fast_tokenizer(recipe)
    if "build" not in off:
        with _named("build"):
            recipe.build.check(model)
    if task.name != _ENCODER_DECODER and "profile" not in off:
        with _named("profile"):
            recipe.profile.check(model, task.name)
    _check_rows(recipe, model, splits, say)  # last, since it reads all rows
    return {**(LEFT_OUT if task.name == _ENCODER_DECODER else {}), **off}


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


@contextlib.contextmanager
def _named(section: str) -> Iterator[None]:
    """Put the section of the recipe in front of what is wrong in it."""
    try:
        yield
    except NirvanaError as error:
        raise NirvanaError(f"{section}: {error}") from error


def _is_alike(recipe: Recipe) -> bool:
    """Return whether all layers will have the same sizes."""
    prune = recipe.prune
    return isinstance(prune, OneShotConfig) and isinstance(prune.scoring.allocation, Uniform)


def _refuse_settings(recipe: Recipe, task: Task) -> None:
    """Raise NirvanaError for what single verbs do, and a run does not."""
    if {"profile", "package"} <= set(recipe.skip):
        return
    if recipe.export.graphs == "split" and task.name == _DECODER:
        raise NirvanaError(
            "export.graphs: a run profiles and packages a decoder as one graph, got split. Leave "
            "it out (merged), or export the checkpoint with `nirvana export`."
        )
    if recipe.export.cache_length is not None:
        raise NirvanaError(
            f"export.cache_length is {recipe.export.cache_length}: its graph is for an engine, and "
            "a run profiles and packages the graph itself. Leave it out, or go verb by verb: "
            "nirvana export, nirvana build."
        )
    if recipe.package.profiles:
        raise NirvanaError(
            "package.profiles are those of an engine, and a run packages ONNX. Leave them out; "
            "`nirvana package --engine` serves an engine."
        )


def _require_fast_tokenizer(recipe: Recipe) -> None:
    from transformers import AutoTokenizer

    from pruning.checkpoints.model_source import load_stock_model

    if not load_stock_model(AutoTokenizer, recipe.model).is_fast:
        raise NirvanaError(
            f"package.to: {recipe.package.to} reads text by tokenizer.json, and {recipe.model} has "
            "a slow tokenizer. Save the model with its fast one, or set package.to to triton."
        )
