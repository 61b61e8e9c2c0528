"""What does not fit the model is said before any work; what fits is let through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import ByT5Tokenizer

from nirvana_deploy import deploy, prune
from nirvana_deploy.config_reader import read_config
from nirvana_deploy.runs.deploy_fit import check_fit
from nirvana_deploy.runs.deploy_stages import LEFT_OUT
from nirvana_deploy.runs.recipe import Recipe
from pruning.checkpoints import model_skeleton
from pruning.errors import NirvanaError
from pruning.tasks import data_splits, text_data
from pruning.tasks.tasks import TASKS
from tests.pruning.training.tiny_tasks import make_headed, write_headed, write_rows

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def make_recipe(tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """Make a recipe of a task, its model written on the first call; sections win."""
    root = tmp_path_factory.mktemp("fit")
    written: dict[str, dict[str, Any]] = {}

    def make(task: str, **sections: Any) -> Recipe:
        if task not in written:
            model = write_headed(root / task / "model", task)
            data = write_rows(root / task / "data", task)
            columns = {"text_column": "text", "tags_column": "tags", "label_column": "label"}
            data = {"dataset": data.dataset, "task": task, "max_length": 16, **columns}
            written[task] = {"model": str(model), "data": data, "out": str(root / task / "out")}
        given = {"profile": {}, "prune": {"num_epochs": 40}, **sections}
        given["profile"] = {"vocab_size": 20, "length": 8, **given["profile"]}
        return read_config(Recipe, {**written[task], **given})

    return make


@pytest.mark.parametrize("task", TASKS)
def test_every_task_fits_with_little_said(task: str, make_recipe: MakeRecipe) -> None:
    assert check_fit(make_recipe(task)) == (LEFT_OUT if task == "seq2seq" else {})


def test_data_and_model_are_read_once(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def count(module: Any, name: str) -> None:
        function = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            read.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(data_splits, "load_splits")
    count(text_data, "load_splits")
    count(model_skeleton, "build_skeleton")
    check_fit(make_recipe("classification"))
    assert sorted(read) == ["build_skeleton", "load_splits"]


def test_the_task_of_the_head_is_found(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("seq2seq")
    data = {"dataset": recipe.data.dataset, "text_column": "text"}
    assert check_fit(make_recipe("seq2seq", data=data)) == LEFT_OUT


def test_a_head_that_is_not_there_is_refused(make_recipe: MakeRecipe) -> None:
    data = {"dataset": make_recipe("causal-lm").data.dataset, "task": "masked-lm"}
    with pytest.raises(NirvanaError, match="no head for masked-lm on llama"):
        check_fit(make_recipe("causal-lm", data=data))


ENGINE = {"min": 1, "opt": 8, "max": 100}


@pytest.mark.parametrize(
    ("task", "sections", "message"),
    [
        ("causal-lm", {"export": {"graphs": "split"}}, r"export\.graphs: .* as one graph"),
        (
            "causal-lm",
            {"export": {"form": "tensorrt", "cache_length": 32}},
            r"export\.cache_length is 32: .*go verb by verb",
        ),
        ("masked-lm", {"package": {"to": "genai"}}, r"genai serves decoders .* task is masked-lm"),
        ("seq2seq", {"package": {"to": "vllm"}}, r"vllm serves decoders .* the task is seq2seq"),
        (
            "causal-lm",
            {"package": {"to": "vllm"}},
            r"form uniform is .* deci .*, form per-layer",
        ),
        (
            "causal-lm",
            {"package": {"to": "tensorrt-llm"}},
            r"package: form uniform is .* TensorRT-LLM gets .* allocation uniform.* form padded",
        ),
        ("causal-lm", {"package": {"profiles": [0]}}, r"package\.profiles are those of an engine"),
        ("classification", {"profile": {"past": 8}}, r"profile: past is for decoders"),
        ("question-answering", {"profile": {"generate": 8}}, r"profile: generate is for decoders"),
        ("causal-lm", {"profile": {"vocab_size": 1000}}, r"is 1000, and the model has 99 tokens"),
        (
            "causal-lm",
            {"profile": {"length": 60, "generate": 30}},
            r"profile: length is 60, .* takes 89 positions, and this llama has 80",
        ),
        (
            "token-classification",
            {"build": {"length": ENGINE}},
            r"build: max is 100.* most 80",
        ),
        (
            "causal-lm",
            {"build": {"past": {**ENGINE, "max": 80}}},
            r"past\.max to at most 79",
        ),
        ("seq2seq", {"latency": {"speedup": 1.5}}, r"no table is measured for encoder-decoders"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    task: str, sections: dict[str, Any], message: str, make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe(task, **sections)
    with pytest.raises(NirvanaError, match=message):
        deploy(recipe)
    assert not recipe.out_dir.exists()


def test_layers_alike_by_scores_fit_a_server_that_wants_them_alike(make_recipe: MakeRecipe) -> None:
    scoring = {"allocation": {}}
    recipe = make_recipe("causal-lm", package={"to": "vllm"}, prune={"scoring": scoring})
    assert check_fit(recipe) == {}
    scoring = {"allocation": {"num_levels": 4}}
    with pytest.raises(NirvanaError, match="form uniform"):
        check_fit(make_recipe("causal-lm", package={"to": "vllm"}, prune={"scoring": scoring}))


def test_a_type_that_the_server_lacks_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    model = write_headed(tmp_path / "model", "causal-lm", "gpt2")
    recipe = make_recipe("causal-lm", package={"to": "tensorrt-llm", "form": "padded"})
    assert check_fit(recipe) == {}
    for form in ("uniform", "padded"):
        package = {"to": "tensorrt-llm", "form": form}
        given = {"model": str(model), "package": package, **_data(recipe)}
        with pytest.raises(NirvanaError, match=r"TensorRT-LLM has no GPT2LMHeadModel .* genai or"):
            check_fit(read_config(Recipe, given))


def test_a_slow_tokenizer_is_refused_for_genai(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("causal-lm", package={"to": "genai"})
    assert check_fit(recipe) == {}
    model = tmp_path / "model"
    make_headed("causal-lm").save_pretrained(model)
    ByT5Tokenizer().save_pretrained(model)
    with pytest.raises(NirvanaError, match=r"genai reads text by tokenizer\.json"):
        check_fit(replace(recipe, model=str(model)))


@pytest.mark.parametrize("task", ["classification", "causal-lm", "seq2seq"])
def test_rows_too_few_for_a_step_per_stage_are_refused(task: str, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(task, prune={"num_epochs": 3})
    with pytest.raises(
        NirvanaError, match=r"training rows in batches of 32 make \d+ steps in 3 ep"
    ):
        deploy(recipe)
    with pytest.raises(NirvanaError, match="Expected at least one step for each of the 4 pruning"):
        prune(recipe.model, recipe.prune, out=recipe.out_dir, data=recipe.data)
    assert not recipe.out_dir.exists()


def test_rows_are_counted_after_their_limit(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("classification", prune={"num_epochs": 4, "batch_size": 8})
    assert check_fit(recipe) == {}  # 24 rows
    limited = replace(recipe, data=replace(recipe.data, max_train_rows=8))
    with pytest.raises(NirvanaError, match="8 training rows in batches of 8 make 4 steps in 4 ep"):
        check_fit(limited)


def test_a_model_that_must_be_fine_tuned_already_has_the_head(make_recipe: MakeRecipe) -> None:
    recipe = replace(make_recipe("classification"), fine_tuned=True)
    data = make_recipe("token-classification").data
    with pytest.raises(NirvanaError, match="was fine-tuned for token-classification"):
        check_fit(replace(recipe, data=data))


def _data(recipe: Recipe) -> dict[str, Any]:
    return {"data": {"dataset": recipe.data.dataset, "task": recipe.data.task}}
