"""The form for vLLM's Transformers backend: sizes of each layer, and none without an attention."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nirvana_deploy.serving.vllm import plugin
from nirvana_deploy.serving.vllm.per_layer import PER_LAYER_TYPES
from pruning.checkpoints.modeling_pruned import pruned_class
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.vllm.tiny_checkpoints import (
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
def test_pruned_class_computes_the_same_from_the_package(
    tmp_path: Path, layers: Any, changes: Any
) -> None:
    from transformers import LlamaForCausalLM

    logits = save(tmp_path / "checkpoint", layers, **changes)
    result = package(tmp_path / "checkpoint", tmp_path / "out", form="per-layer")
    assert not [name for name in result.files if name.endswith((".py", "plan.json"))]
    config = read_config(tmp_path / "out")
    assert "auto_map" not in config
    # What the backend sizes its caches by: every layer has a KV head.
    read = AutoConfig.from_pretrained(tmp_path / "out" / "small")
    counts = [read.per_layer_config[number].num_key_value_heads for number in range(3)]
    held = [layer["num_kv_heads"] for layer in config["nirvana"]["stacks"][0]["layers"]]
    assert counts == held and all(held)
    loaded = pruned_class(LlamaForCausalLM).from_pretrained(
        tmp_path / "out" / "small", attn_implementation="eager"
    )
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(IDS).logits, logits)


def test_code_goes_along_on_request_alone_and_says_so(tmp_path: Path) -> None:
    logits = save(tmp_path / "checkpoint", MIXED)
    result = package(tmp_path / "checkpoint", tmp_path / "out", form="per-layer", remote_code=True)
    assert "small/modeling_pruned.py" in result.files
    assert result.notes[0].startswith("WARNING: holds code")
    assert set(read_config(tmp_path / "out")["auto_map"]) == {"AutoModel", "AutoModelForCausalLM"}
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out" / "small", trust_remote_code=True, attn_implementation="eager"
    )
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(IDS).logits, logits)


def test_other_types_and_layers_that_are_alike_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "alike", [keep((0, 1), (1, 2))] * 3)
    with pytest.raises(NirvanaError, match=r"layers that are all alike.*form uniform"):
        package(tmp_path / "alike", tmp_path / "out", form="per-layer")
    plan = [keep((0, 1), (1, 2)), keep((0, 1), (3,)), keep((0,), (3,))]
    save(tmp_path / "neox", plan, "gpt_neox")
    with pytest.raises(NirvanaError, match="single layers of gpt_neox, only of: gemma2"):
        package(tmp_path / "neox", tmp_path / "out", form="per-layer")


def test_sizes_that_the_config_class_refuses_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaConfig

    def refuse(values: dict[str, Any], **_: Any) -> Any:
        raise ValueError(f"5 heads do not divide {values['hidden_size']}")

    save(tmp_path / "checkpoint", MIXED)
    monkeypatch.setattr(LlamaConfig, "from_dict", refuse)
    with pytest.raises(NirvanaError, match="cannot read the sizes of single layers of llama"):
        package(tmp_path / "checkpoint", tmp_path / "out", form="per-layer")


def test_empty_parts_are_named_in_the_layer_sizes(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint", EMPTY)
    package(tmp_path / "checkpoint", tmp_path / "out", form="per-layer")
    config = read_config(tmp_path / "out")
    layers = config["nirvana"]["stacks"][0]["layers"]
    skipped = [config["per_layer_config"][str(n)].get("skip", []) for n in range(len(layers))]
    assert skipped == [["mlp"] * (not layer["num_neurons"]) for layer in layers]


def test_plugin_registers_each_architecture_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[str, str] = {}

    class Registry:
        @staticmethod
        def get_supported_archs() -> list[str]:
            return list(registered)

        @staticmethod
        def register_model(name: str, target: str) -> None:
            assert name not in registered
            registered[name] = target

    class Vllm:
        ModelRegistry = Registry

    monkeypatch.setitem(sys.modules, "vllm", Vllm)
    plugin.register()
    plugin.register()  # vLLM may call it twice in a process
    assert registered["PrunedLlamaForCausalLM"] == plugin.MODEL_CLASS
    assert len(registered) == len(PER_LAYER_TYPES)
    module, name = plugin.MODEL_CLASS.split(":")
    source = Path(plugin.__file__).parent / (module.rpartition(".")[2] + ".py")
    assert f"class {name}(" in source.read_text()
    assert AutoConfig.for_model("nemotron-nas", block_configs=[]).block_configs == []
