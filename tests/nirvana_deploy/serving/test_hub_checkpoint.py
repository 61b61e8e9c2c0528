"""Plain checkpoints for vLLM and TensorRT-LLM load as the stock class; others are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

import nirvana_deploy
from nirvana_deploy import LayerPlan
from nirvana_deploy.serving.package import package_model
from nirvana_deploy.serving.package_config import CheckpointSources, PackageConfig, choose_sources
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.tiny_decoder import save_tokenizer
from tests.pruning.tiny_models import make_tiny

ALL = tuple(range(256))


def save(
    folder: Path, layers: list[LayerPlan], name: str = "llama", **changes: Any
) -> torch.nn.Module:
    """Save a tiny model of three layers, cut as `layers` say, with a tokenizer."""
    dense = make_tiny(name, "eager", intermediate_size=512, **changes)
    pruned = nirvana_deploy.repack(dense, nirvana_deploy.plan_for(dense, layers)).eval()
    nirvana_deploy.save_pruned(pruned, folder)
    save_tokenizer(folder)
    return pruned


def package(folder: Path, to: Any, out: Path) -> Any:
    return package_model(
        CheckpointSources(checkpoint=folder), out, PackageConfig(to=to, model_name="small")
    )


def keep(heads: tuple[int, ...] | None = (0, 1), neurons: Any = ALL) -> LayerPlan:
    return LayerPlan(kept_heads=heads, kept_neurons=neurons)


@pytest.mark.parametrize("to", ["vllm", "tensorrt-llm"])
def test_layers_that_are_alike_are_a_plain_checkpoint(tmp_path: Path, to: str) -> None:
    layers = [keep(), keep(heads=(2, 3)), keep(heads=(4, 5), neurons=tuple(range(100, 356)))]
    pruned = save(tmp_path / "checkpoint", layers)
    result = package(tmp_path / "checkpoint", to, tmp_path / "package")
    assert not [name for name in result.files if name.endswith((".py", "plan.json", ".bin"))]
    config = json.loads((tmp_path / "package/small/config.json").read_text())
    assert not {"nirvana", "auto_map"} & set(config)
    # By transformers' own class, with none of our code.
    loaded = LlamaForCausalLM.from_pretrained(
        tmp_path / "package" / "small", attn_implementation="eager"
    ).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, pruned(ids).logits)


@pytest.mark.parametrize(
    ("layers", "to", "message"),
    [
        (
            [keep(), keep(), keep(heads=(0, 1, 2, 3))],
            "vllm",
            "Layer 2 has 4 heads and layer 0 has 2; vLLM reads .* allocation uniform",
        ),
        (
            [keep(), keep(neurons=ALL[:9]), keep()],
            "tensorrt-llm",
            "Layer 1 has 9 neurons and layer 0 has 256; TensorRT-LLM",
        ),
        ([keep(), keep(heads=None), keep()], "vllm", "Layer 1 has no heads, and vLLM gives"),
        (
            [keep(neurons=ALL[:250])] * 3,
            "tensorrt-llm",
            "Each layer has 250 neurons; TensorRT-LLM wants a multiple of 256.*neuron_multiple 256",
        ),
    ],
    ids=["heads", "neurons", "no attention", "width"],
)
def test_what_the_server_cannot_hold_is_refused_by_layer(
    tmp_path: Path, layers: list[LayerPlan], to: str, message: str
) -> None:
    save(tmp_path / "checkpoint", layers)
    with pytest.raises(NirvanaError, match=message):
        package(tmp_path / "checkpoint", to, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_vllm_s_own_limit_on_sliding_windows_is_told(tmp_path: Path) -> None:
    # Its Qwen2 slides in all layers or in none; this one's window begins at layer 1.
    layers = [LayerPlan(kept_heads=(0, 1), kept_neurons=(1, 2))] * 3
    save(tmp_path / "qwen2", layers, "qwen2")
    with pytest.raises(NirvanaError, match=r"window from layer 1 of 3 on, and vLLM.*per-layer"):
        package(tmp_path / "qwen2", "vllm", tmp_path / "package")


def test_vllm_s_own_width_of_a_head_is_told_and_padding_meets_it(tmp_path: Path) -> None:
    layers = [LayerPlan(kept_heads=(0, 2), kept_neurons=(1, 2))] * 3
    save(tmp_path / "qwen2", layers, "qwen2", use_sliding_window=False)
    with pytest.raises(NirvanaError, match=r"2 heads of 8 channels.*24 wide.*form padded"):
        package(tmp_path / "qwen2", "vllm", tmp_path / "package")
    config = PackageConfig(to="vllm", form="padded")
    package_model(CheckpointSources(checkpoint=tmp_path / "qwen2"), tmp_path / "package", config)
    written = json.loads((tmp_path / "package/model/config.json").read_text())
    assert written["num_attention_heads"] * written["head_dim"] == written["hidden_size"]


def test_vllm_s_own_width_of_falcon_s_mlp_is_told(tmp_path: Path) -> None:
    dense = make_tiny("falcon-multi-query", "eager")
    layer = LayerPlan(kept_heads=tuple(range(4)), kept_neurons=(1, 2, 3))
    plan = nirvana_deploy.plan_for(dense, [layer] * 3)
    nirvana_deploy.save_pruned(nirvana_deploy.repack(dense, plan), tmp_path / "falcon")
    with pytest.raises(NirvanaError, match=r"3 neurons, and vLLM's Falcon.*128: four times"):
        package(tmp_path / "falcon", "vllm", tmp_path / "package")


def test_other_architectures_and_folders_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "bert", [LayerPlan(kept_heads=(0, 1, 2, 3), kept_neurons=ALL)] * 3, "bert")
    with pytest.raises(NirvanaError, match="vLLM has no BertForSequenceClassification of those"):
        package(tmp_path / "bert", "vllm", tmp_path / "package")
    with pytest.raises(NirvanaError, match=r"config\.json cannot be read: .* Expected the folder"):
        package(tmp_path / "nothing", "vllm", tmp_path / "package")
    with pytest.raises(NirvanaError, match=r"config\.json is a file: .* the checkpoint's folder"):
        package(tmp_path / "bert" / "config.json", "vllm", tmp_path / "package")
    save(tmp_path / "llama", [keep()] * 3)
    (tmp_path / "export").mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(tmp_path / "llama" / name, tmp_path / "export" / name)
    (tmp_path / "export" / "model.onnx").write_bytes(b"")
    with pytest.raises(NirvanaError, match="export holds an export, and vLLM reads a checkpoint"):
        package(tmp_path / "export", "vllm", tmp_path / "package")
    (tmp_path / "llama" / "tokenizer.json").unlink()
    with pytest.raises(NirvanaError, match="holds no tokenizer, and vLLM reads text by it"):
        package(tmp_path / "llama", "vllm", tmp_path / "package")
    with pytest.raises(NirvanaError, match="holds one checkpoint, and --dense is something else"):
        choose_sources(PackageConfig(to="vllm"), tmp_path / "llama", dense=tmp_path / "bert")
    (tmp_path / "llama" / "plan.json").write_text("{}")
    with pytest.raises(NirvanaError, match=r"plan\.json"):
        package(tmp_path / "llama", "vllm", tmp_path / "again")
    with pytest.raises(NirvanaError, match="TensorRT-LLM is not run here: leave out --check"):
        package_model(
            CheckpointSources(checkpoint=tmp_path),
            tmp_path / "again",
            PackageConfig(to="tensorrt-llm"),
            check=True,
        )
