"""DeciLM's blocks, held against a reference that reads nothing but the package."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nirvana_deploy import LayerPlan
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.vllm.deci_reference import run_deci
from tests.nirvana_deploy.serving.vllm.tiny_checkpoints import (
    ALL,
    BIASES,
    EMPTY,
    IDS,
    MIXED,
    keep,
    package,
    read_config,
    save,
)


@pytest.mark.parametrize(
    ("layers", "changes"),
    [(MIXED, {}), (EMPTY, {}), (BIASES, {"attention_bias": True, "mlp_bias": True})],
    ids=["mixed", "empty parts", "biases left"],
)
def test_blocks_compute_what_the_pruned_model_does(
    tmp_path: Path, layers: list[LayerPlan], changes: dict[str, Any]
) -> None:
    logits = save(tmp_path / "checkpoint", layers, **changes)
    package(tmp_path / "checkpoint", tmp_path / "out", form="deci")
    torch.testing.assert_close(run_deci(tmp_path / "out" / "small", IDS), logits)


def test_parts_that_are_gone_are_no_ops_where_the_server_allows_it(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint", EMPTY)
    result = package(tmp_path / "checkpoint", tmp_path / "out", form="deci")
    blocks = read_config(tmp_path / "out")["block_configs"]
    gone = [(block["attention"]["no_op"], block["ffn"]["no_op"]) for block in blocks]
    # The first attention must be there: vLLM's residual stream begins in it.
    assert gone == [(False, False), (False, True), (True, True)]
    assert any("needs nirvana-deploy in vLLM's environment" in note for note in result.notes)
    assert not [name for name in result.files if name.endswith(".py")]


def test_tensorrt_llm_gets_widths_of_256_and_older_names(tmp_path: Path) -> None:
    logits = save(tmp_path / "checkpoint", MIXED, rope_parameters=_ROPE)
    result = package(
        tmp_path / "checkpoint", tmp_path / "out", "tensorrt-llm", form="deci", remote_code=True
    )
    torch.testing.assert_close(run_deci(tmp_path / "out" / "small", IDS), logits)
    config = read_config(tmp_path / "out")
    assert config["rope_theta"] == 5e5 and config["torch_dtype"] == "float32"
    padding = json.loads((tmp_path / "out" / "padding.json").read_text())
    assert {layer["held"]["num_neurons"] for layer in padding["layers"]} == {256}
    assert result.notes[0].startswith("WARNING: holds code (configuration_deci.py")
    module = _load_code(tmp_path / "out" / "small" / "configuration_deci.py")
    read = module.DeciConfig.from_pretrained(tmp_path / "out" / "small")
    assert read.block_configs[1].attention.n_heads_in_group == 3
    assert not hasattr(read.block_configs[1].attention, "intermediate_size")
    assert json.loads(read.to_json_string())["block_configs"] == config["block_configs"]


_ROPE = {"rope_type": "default", "rope_theta": 5e5}


def _load_code(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("configuration_deci_of_package", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_padding_is_counted_by_layer(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint", [keep((0, 2), ALL), keep((4, 5), ALL), keep((0, 1), ALL)])
    package(tmp_path / "checkpoint", tmp_path / "out", form="deci")
    padding = json.loads((tmp_path / "out" / "padding.json").read_text())
    # Two query heads hold all three: on two KV heads, on one, on one.
    assert padding["added_parameters"] == padding["added_kv_bytes_per_token"] == 0
    assert padding["kv_bytes_per_token"] == 4 * 2 * 8 * (2 + 1 + 1)
    save(tmp_path / "other", [keep((0, 2, 4), ALL), keep((0, 2), ALL), keep((0, 2), ALL)])
    result = package(tmp_path / "other", tmp_path / "more", form="deci")
    layer = json.loads((tmp_path / "more" / "padding.json").read_text())["layers"][1]
    # Three query heads on three KV heads, of 8 channels, on a hidden size of 48.
    assert layer["held"] == {"num_heads": 3, "num_kv_heads": 3, "num_neurons": 48}
    assert layer["added_parameters"] == 4 * 8 * 48 and layer["added_bytes"] == 4 * 4 * 8 * 48
    assert layer["added_kv_bytes_per_token"] == 4 * 2 * 8
    assert "3,072 zeros in 2 of 3 layers" in result.notes[-1]


@pytest.mark.parametrize(
    ("name", "changes", "to", "message"),
    [
        ("qwen3", {}, "vllm", "DeciLM has blocks of llama and mistral, and this is qwen3.*padded"),
        ("mistral", {"sliding_window": 6}, "vllm", "this model to the last 6 tokens.*padded"),
        ("llama", {"mlp_bias": True}, "tensorrt-llm", "has no biases, and this model's mlp_bias"),
    ],
)
def test_what_deci_does_not_compute_is_refused(
    tmp_path: Path, name: str, changes: dict[str, Any], to: str, message: str
) -> None:
    save(tmp_path / "checkpoint", MIXED, name, **changes)
    with pytest.raises(NirvanaError, match=message):
        package(
            tmp_path / "checkpoint", tmp_path / "out", to, form="deci", remote_code=to != "vllm"
        )
    assert not (tmp_path / "out").exists()
