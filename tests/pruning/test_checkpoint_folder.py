import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, LlamaConfig

from pruning.checkpoint import is_pruned, load_pruned, save_pruned
from pruning.plan import PruningPlan
from pruning.repack import repack
from tests.pruning.test_checkpoint import compute_logits, load_with_remote_code
from tests.pruning.tiny_models import PLANS, make_tiny
from tests.pruning.tiny_text import write_tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> tuple[Path, PruningPlan]:
    model = make_tiny("llama")
    plan = PLANS["uneven"](model)
    folder = tmp_path_factory.mktemp("llama") / "checkpoint"
    save_pruned(repack(model, plan), folder)
    return folder, plan


def test_big_models_come_in_shards(tmp_path: Path) -> None:
    smaller = repack(make_tiny("llama"), PLANS["uneven"](make_tiny("llama")))
    save_pruned(smaller, tmp_path / "checkpoint", max_shard_size="20KB")
    index = json.loads((tmp_path / "checkpoint/model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in (tmp_path / "checkpoint").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == shards
    assert len(shards) > 2
    expected = compute_logits(smaller)
    assert torch.equal(compute_logits(load_pruned(tmp_path / "checkpoint")), expected)
    remote = load_with_remote_code("llama", tmp_path / "checkpoint")
    assert torch.equal(compute_logits(remote), expected)


def test_the_folder_is_ordinary_and_holds_no_pickle(llama) -> None:
    folder, plan = llama
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("modeling_pruned.py", "plan.json", "manifest.json"),
    }
    assert is_pruned(folder)
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(listed) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert PruningPlan.load(folder / "plan.json") == plan
    code = (folder / "modeling_pruned.py").read_text()
    assert "from pruning" not in code and "import pruning" not in code


def test_the_config_carries_the_layer_sizes(llama) -> None:
    folder, plan = llama
    written = json.loads((folder / "config.json").read_text())["per_layer_config"]
    assert written["1"]["num_key_value_heads"] == 1
    config = AutoConfig.from_pretrained(folder)
    for number, layer in enumerate(plan.layers):
        sizes, groups = config.per_layer_config[number], {head // 2 for head in layer.kept_heads}
        assert sizes.num_attention_heads == len(layer.kept_heads)
        assert sizes.num_key_value_heads == len(groups)
        assert sizes.intermediate_size == len(layer.kept_neurons)
    assert "per_layer_config" not in load_pruned(folder).config.to_dict()


def test_the_config_carries_what_a_layer_skips(tmp_path: Path) -> None:
    model = make_tiny("llama")
    save_pruned(repack(model, PLANS["dropping"](model)), tmp_path / "checkpoint")
    sizes = AutoConfig.from_pretrained(tmp_path / "checkpoint").per_layer_config
    assert [layer.skip for layer in sizes] == [["attention"], ["attention", "mlp"], ["mlp"]]


@pytest.mark.parametrize("name", ["t5", "bart", "llama"])
def test_a_config_that_cannot_carry_layer_sizes_goes_without(name, tmp_path, monkeypatch) -> None:
    """Encoder-decoders have two lists of layers; the checks of another config may refuse."""
    model = make_tiny(name)
    smaller = repack(model, PLANS["uneven"](model))
    with monkeypatch.context() as patch:
        if name == "llama":
            patch.setattr(LlamaConfig, "from_dict", refuse_layer_sizes)
        save_pruned(smaller, tmp_path / "checkpoint")
    config = json.loads((tmp_path / "checkpoint/config.json").read_text())
    assert "per_layer_config" not in config
    assert "allow_global_per_layer_attribute_access" not in config
    loaded = load_with_remote_code(name, tmp_path / "checkpoint")
    assert torch.equal(compute_logits(loaded), compute_logits(smaller))


def refuse_layer_sizes(values):
    raise ValueError(f"5 heads do not divide {values['hidden_size']}")


def test_tokenizer_and_generation_config_come_along(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "source")
    model = make_tiny("llama")
    model.generation_config.max_new_tokens = 7
    smaller = repack(model, PLANS["uneven"](model))
    save_pruned(smaller, tmp_path / "checkpoint", tokenizer)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    assert loaded("play dice") == tokenizer("play dice")
    remote = load_with_remote_code("llama", tmp_path / "checkpoint")
    assert remote.generation_config.max_new_tokens == 7
    smaller.generation_config.max_new_tokens = 8
    assert model.generation_config.max_new_tokens == 7
    assert (
        "tokenizer.json" in json.loads((tmp_path / "checkpoint/manifest.json").read_text())["files"]
    )
