"""Zeros until all layers are alike: transformers' stock class computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nirvana_deploy import LayerPlan
from pruning.checkpoints.checkpoint_source import list_tensors
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.vllm.tiny_checkpoints import (
    EMPTY,
    IDS,
    MIXED,
    keep,
    package,
    read_config,
    save,
)


@pytest.mark.parametrize(
    ("name", "layers"),
    [("llama", MIXED), ("qwen2", MIXED), ("qwen3", EMPTY), ("gemma2", EMPTY)],
    ids=["llama", "biases of q, k and v", "norms of q and k", "norms behind"],
)
def test_stock_class_computes_what_the_pruned_model_does(
    tmp_path: Path, name: str, layers: list[LayerPlan]
) -> None:
    # vLLM's Qwen2 slides in all layers or in none.
    changes = {"use_sliding_window": False} if name == "qwen2" else {}
    logits = save(tmp_path / "checkpoint", layers, name, **changes)
    result = package(tmp_path / "checkpoint", tmp_path / "out", form="padded")
    assert not [file for file in result.files if file.endswith((".py", ".bin", "plan.json"))]
    assert not {"nirvana", "auto_map", "per_layer_config"} & set(read_config(tmp_path / "out"))
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out" / "small", attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, logits)


def test_tensorrt_llm_gets_a_width_of_256_also_for_layers_that_are_alike(tmp_path: Path) -> None:
    logits = save(tmp_path / "checkpoint", [keep((0, 1), tuple(range(40)))] * 3)
    package(tmp_path / "checkpoint", tmp_path / "out", "tensorrt-llm", form="padded")
    config = read_config(tmp_path / "out")
    assert (config["intermediate_size"], config["num_attention_heads"]) == (256, 2)
    assert config["rope_theta"] == 10000.0
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out" / "small", attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, logits)


def test_shards_keep_their_names(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    logits = save(tmp_path / "checkpoint", EMPTY)
    folder = tmp_path / "checkpoint"
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    (folder / "manifest.json").unlink()
    shards = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / shard, {"format": "pt"})
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(
        f'{{"weight_map": {weight_map}}}'.replace("'", '"')
    )
    package(folder, tmp_path / "out", form="padded")
    files = {tensor.file.name for tensor in list_tensors(tmp_path / "out" / "small")}
    assert files == set(shards)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out" / "small", attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, logits)


def test_parts_that_no_layer_has_and_other_types_are_refused(tmp_path: Path) -> None:
    heads = (0, 1)
    save(tmp_path / "no-mlp", [keep(heads, None), keep((0, 2), None), keep(heads, None)])
    with pytest.raises(NirvanaError, match="Layer 0 has no mlp, nor has any other layer"):
        package(tmp_path / "no-mlp", tmp_path / "out", form="padded")
    plan = [keep((0, 1), tuple(range(9))), keep((0, 1), (3,)), keep((0,), (3,))]
    save(tmp_path / "gpt2", plan, "gpt2")
    with pytest.raises(NirvanaError, match=r"gpt2 is not packaged in this form.*apart: gemma2"):
        package(tmp_path / "gpt2", tmp_path / "out", form="padded")
