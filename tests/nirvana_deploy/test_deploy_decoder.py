"""The shipped recipe of a decoder, cut down to seconds, from the model to its server's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nirvana_deploy import DeployResult, deploy, load
from nirvana_deploy.runs.recipe import Recipe, load_recipe
from nirvana_deploy.serving.graph_decoder import read_decoder
from tests.nirvana_deploy.drawn_page import Page
from tests.nirvana_deploy.serving.tiny_decoder import generate_greedily
from tests.pruning.training.tiny_tasks import write_headed, write_rows

RECIPE = Path(__file__).parents[2] / "recipes" / "decoder.yaml"
PROMPT = [7, 12, 9, 14]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("decoder")
    model = write_headed(folder / "model", "causal-lm", num_hidden_layers=2)
    data = write_rows(folder / "data", "causal-lm", num_train=64)
    calibration = {"num_sequences": 8, "sequence_length": 16}
    calibration |= {"source": data.dataset, "text_column": "text"}
    shapes = {"min": 1, "opt": 8, "max": 16}
    quick = {"warmup_seconds": 0.02, "min_seconds": 0.02, "min_samples": 4, "num_threads": 1}
    overrides: dict[str, Any] = {
        "model": str(model),
        "out": str(folder / "run"),
        "data": {"dataset": data.dataset, "text_column": "text", "max_length": 16},
        "baseline": {"bf16": False},
        "prune": {
            "sequence_length": 16,
            "constraints": {"neuron_multiple": 8},
            "scoring": {"allocation": {"num_levels": 3}, "calibration": calibration},
        },
        "build": {"length": shapes, "past": shapes},
        "profile": {"length": 8, "generate": 3, "vocab_size": 20, **quick},
    }
    return load_recipe(RECIPE, overrides)


@pytest.fixture(scope="module")
def result(recipe: Recipe) -> DeployResult:
    return deploy(recipe, say=lambda _: None)


@pytest.mark.slow
def test_the_graph_is_of_the_pruned_decoder(result: DeployResult) -> None:
    model = load(result.checkpoint)
    caches = read_decoder(result.onnx).cache
    kept = [layer.self_attn.k_proj.out_features // 8 for layer in model.model.layers]
    assert [cache.num_heads for cache in caches[::2]] == kept
    prune = result.results["prune"]
    assert prune["metric"] == "perplexity"
    assert prune["budget"]["kept_fraction"] <= 0.7
    assert prune["pruned"]["block_macs"] < prune["dense"]["block_macs"]


@pytest.mark.slow
def test_the_package_writes_what_the_checkpoint_does(result: DeployResult) -> None:
    package = result.folders["package"] / result.results["package"]["folder"]
    assert package == result.folders["package"] / "genai"
    assert {"genai_config.json", "tokenizer.json"} <= {path.name for path in package.iterdir()}
    model = load(result.checkpoint)
    ids_BS = torch.tensor([PROMPT])
    for _ in range(6):
        ids_BS = torch.cat([ids_BS, model(ids_BS).logits[:, -1:].argmax(-1)], dim=1)
    assert generate_greedily(package / "model.onnx", PROMPT, 6) == ids_BS[0].tolist()


@pytest.mark.slow
@pytest.mark.tensorrt
def test_the_engine_has_the_profiles_of_a_decoder(result: DeployResult) -> None:
    built = result.results["build"]
    assert built["profile_names"] == ["prefill", "decode"]
    assert built["optimisation_profile"]["input_ids"]["max"] == [8, 16]
    assert built["further_profiles"][0]["input_ids"]["max"] == [8, 1]
    assert built["num_attention_layers"] == 2
    drawn = Page(result.report.read_text(encoding="utf-8")).text
    assert "Optimisation profile prefill" in drawn and "Optimisation profile decode" in drawn


@pytest.mark.slow
def test_prompt_and_tokens_are_measured_and_reported(result: DeployResult) -> None:
    profile = result.results["profile"]
    assert [(case["batch"], case["length"]) for case in profile["cases"]] == [(1, 8)]
    assert [case["num_tokens"] for case in profile["generations"]] == [3]
    rows = dict(result.headline())
    assert {"perplexity", "loss", "between tokens, 3 tokens, batch 1 x 8"} <= set(rows)
    drawn = Page(result.report.read_text(encoding="utf-8")).text
    dense = result.results["prune"]["dense"]["perplexity"]
    assert f"perplexity {dense:.3f}" in drawn.replace("\u00a0", " ")
    assert "classification" not in drawn.split("Recipe")[0]


@pytest.mark.slow
@pytest.mark.triton
def test_another_server_needs_only_another_package(result: DeployResult) -> None:
    other = load_recipe(result.out / "recipe.yaml", {"package": {"to": "triton"}})
    again = deploy(other, result.out, say=lambda _: None)
    assert again.skipped == ("baseline", "score", "prune", "export", "build", "profile")
    (config,) = again.folders["package"].rglob("config.pbtxt")
    names = {cache.name for cache in read_decoder(result.onnx).cache}
    assert names and all(f'"{name}"' in config.read_text() for name in names)
