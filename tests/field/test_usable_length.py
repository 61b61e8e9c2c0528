"""Every consumer takes the same number of positions from a model, whatever its type calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import AutoConfig, AutoModel

from exporters.compare.onnx_artefact import read_config_facts
from exporters.engines.engine_profiles import find_max_length
from nirvana_deploy import profile, sweep
from nirvana_deploy.serving.genai import package_genai
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.text_model_file import find_length_step
from nirvana_deploy.serving.text_parts import read_text_parts
from profiles.measuring.measure_config import ProfileConfig, SweepConfig
from pruning.errors import NirvanaError
from pruning.tasks.position_limit import (
    count_config_positions,
    count_positions,
    find_usable_length,
    is_position_table,
)
from tests.nirvana_deploy.serving.tiny_classifier import save_checkpoint
from tests.nirvana_deploy.serving.tiny_decoder import export_tiny

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 40,
}
# (type, what its config says, positions that are left for tokens)
TYPES: list[tuple[str, dict[str, Any], int | None]] = [
    ("bert", {"max_position_embeddings": 64, "pad_token_id": 3}, 64),
    ("roberta", {"max_position_embeddings": 66, "pad_token_id": 1}, 64),
    ("roberta", {"max_position_embeddings": 66, "pad_token_id": 3}, 62),
    ("xlm-roberta", {"max_position_embeddings": 64, "pad_token_id": 1}, 62),
    ("camembert", {"max_position_embeddings": 64, "pad_token_id": 1}, 62),
    ("data2vec-text", {"max_position_embeddings": 64, "pad_token_id": 1}, 62),
    ("longformer", {"max_position_embeddings": 64, "pad_token_id": 1}, 62),
    # Its table's padding is 1, whatever the config says.
    ("mpnet", {"max_position_embeddings": 64, "pad_token_id": 5}, 62),
    ("gpt2", {"n_positions": 48, "n_embd": 16, "n_layer": 1, "n_head": 2}, 48),
    ("ctrl", {"n_positions": 48}, 48),
    ("bart", {"max_position_embeddings": 64, "pad_token_id": 1}, 64),
    ("opt", {"max_position_embeddings": 64, "pad_token_id": 1}, 64),
    ("llama", {"max_position_embeddings": 64}, 64),
    ("mpt", {"max_seq_len": 64}, 64),
    # A table of 66 rows, whose first two are skipped.
    ("nystromformer", {"max_position_embeddings": 64}, 64),
    # Relative positions have no last one, whatever an old config says.
    ("t5", {"n_positions": 64, "pad_token_id": 0}, None),
    ("xlnet", {"pad_token_id": 5}, None),
]


@pytest.mark.parametrize(("model_type", "settings", "expected"), TYPES)
def test_config_and_model_say_the_same(
    model_type: str, settings: dict[str, Any], expected: int | None
) -> None:
    assert count_config_positions({"model_type": model_type, **settings}) == expected
    known = {} if model_type in ("gpt2", "mpt") else {"vocab_size": 40}
    with torch.device("meta"):
        config = AutoConfig.for_model(model_type, **settings, **known)
        assert count_positions(AutoModel.from_config(config)) == expected


@pytest.mark.parametrize(
    ("model_type", "pad"), [("roberta", 1), ("roberta", 3), ("mpnet", 1), ("xlm-roberta", 1)]
)
def test_the_longest_input_runs_and_one_token_more_does_not(model_type: str, pad: int) -> None:
    settings = {**SIZES, "max_position_embeddings": 20, "pad_token_id": pad}
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **settings)).eval()
    longest = count_positions(model)
    assert longest is not None
    with torch.no_grad():
        model(input_ids=torch.full((1, longest), 9))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 9))


def test_a_nested_or_unknown_config_is_read() -> None:
    nested = {"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}
    assert count_config_positions({"model_type": "some-vision", "text_config": nested}) == 64
    assert count_config_positions({"model_type": "of-nobody", "max_sequence_length": 33}) == 33
    assert count_config_positions({"model_type": "of-nobody", "n_ctx": 31}) == 31
    assert count_config_positions({"max_position_embeddings": True}) is None
    assert count_config_positions({}) is None


def test_the_table_in_the_model_counts_not_the_config() -> None:
    model = AutoModel.from_config(AutoConfig.for_model("bert", **SIZES, max_position_embeddings=20))
    model.embeddings.position_embeddings = torch.nn.Embedding(12, 16)
    assert count_positions(model) == 12


def test_the_tokenizers_own_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 40}))
    assert find_usable_length(tmp_path) == 40
    for given, expected in ((32, 32), (10**30, 40), (1e30, 40), (20.0, 20), (None, 40)):
        settings = json.dumps({"model_max_length": given})
        (tmp_path / "tokenizer_config.json").write_text(settings)
        assert find_usable_length(tmp_path) == expected
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(NirvanaError, match=r"config\.json cannot be read: .* Save the checkpoint"):
        find_usable_length(tmp_path)


def write_config(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b"}, **config}))
    return folder


def test_a_text_model_and_a_comparison_cut_to_what_runs(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint")
    write_config(folder, model_type="xlm-roberta", max_position_embeddings=512, pad_token_id=1)
    assert read_text_parts(folder).max_length == 496  # 510 in steps of 16
    facts = read_config_facts(folder)
    assert facts is not None and facts.max_length == 510
    # What the export recorded of its graph counts too, and nothing is rounded up.
    assert read_text_parts(folder, 100).max_length == 96
    assert read_text_parts(folder, 9).max_length == 9
    assert [find_length_step(length) for length in (9, 16, 496, 500)] == [1, 16, 16, 1]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tmp_path_factory.mktemp("decoder") / "export", pruned=False).folder


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model_type": "gpt2", "n_positions": 512}, 512),
        ({"model_type": "of-nobody", "max_sequence_length": 300}, 300),
        ({"model_type": "llama", "max_position_embeddings": 70}, 70),
        ({"model_type": "bloom"}, 2048),
    ],
)
def test_the_context_of_genai_is_the_models(
    decoder: Path, tmp_path: Path, settings: dict[str, Any], expected: int
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(decoder, folder)
    config = json.loads((folder / "config.json").read_text())
    for name in ("max_position_embeddings", "model_type"):
        config.pop(name)
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    package_genai(
        OnnxSources(onnx=folder / "model.onnx"), tmp_path / "out", PackageConfig(to="genai")
    )
    written = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert written["model"]["context_length"] == written["search"]["max_length"] == expected


def write_graph(folder: Path, table: str, rows: int) -> Path:
    """Write a graph of one table of positions, which nothing reads: it must not come to a run."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ("batch", "sequence"))
    out = helper.make_tensor_value_info("copy", TensorProto.INT64, ("batch", "sequence"))
    weight = numpy_helper.from_array(np.zeros((rows, 4), np.float32), table)
    node = helper.make_node("Identity", ["input_ids"], ["copy"])
    graph = helper.make_graph([node], "graph", [ids], [out], [weight])
    path = folder / "model.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )
    return path


# Of a model with 30 positions; the hash is not looked at where only positions are asked for.
GRAPH_OF_30 = {"file": "model.onnx", "max_length": 30, "sha256": {"model.onnx": "0"}}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"export.json": {"graphs": {"model": GRAPH_OF_30}}}, 30),
        ({"config.json": {"model_type": "gpt2", "n_positions": 24}}, 24),
        ({"config.json": {"model_type": "roberta", "max_position_embeddings": 66}}, 40),
        ({}, 40),
    ],
)
def test_a_measurement_beyond_the_positions_is_refused_before_it_runs(
    tmp_path: Path, files: dict[str, Any], expected: int
) -> None:
    path = write_graph(tmp_path, "bert.embeddings.position_embeddings.weight", 40)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert find_max_length(path) == expected
    reason = (
        rf"length is {expected + 1}, which takes .* has {expected}\. Ask for at most {expected}"
    )
    with pytest.raises(NirvanaError, match=reason):
        profile(path, path, ProfileConfig(length=expected + 1))
    with pytest.raises(NirvanaError, match=reason):
        sweep(path, SweepConfig(length=expected + 1))
    with pytest.raises(NirvanaError, match="together with past or generate takes"):
        profile(path, path, ProfileConfig(length=8, past=expected))
    with pytest.raises(NirvanaError, match="together with past or generate takes"):
        profile(path, path, ProfileConfig(length=expected, generate=2))


def test_a_checkpoint_is_not_measured_beyond_its_positions(tmp_path: Path) -> None:
    model = AutoModel.from_config(AutoConfig.for_model("bert", **SIZES, max_position_embeddings=20))
    model.save_pretrained(tmp_path)
    with pytest.raises(NirvanaError, match=r"length is 21, .* has 20"):
        profile(tmp_path, tmp_path, ProfileConfig(length=21, vocab_size=40))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("transformer.wpe.weight", True),
        ("bert.embeddings.position_embeddings.weight_quantized", True),
        ("model.encoder.embed_positions.weight", True),
        ("bert.embeddings.word_embeddings.weight", False),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", False),
        ("layer.0.wpe.bias", False),
    ],
)
def test_a_table_of_positions_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_position_table(name) is expected
