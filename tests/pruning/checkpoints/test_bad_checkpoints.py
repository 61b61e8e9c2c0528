"""What is wrong with a checkpoint is named, by each way to read it, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.checkpoints.model_source import load_model
from pruning.cutting.inspection import read_current_plan
from pruning.cutting.repack import repack
from pruning.cutting.repack_checkpoint import repack_checkpoint
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from tests.pruning.tiny_models import PLANS, make_tiny

INDEX = "model.safetensors.index.json"
SECOND = "model-00002-of-00004.safetensors"
NORM = "model.norm.weight"
UP = "model.layers.0.mlp.up_proj.weight"  # in the second shard


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A dense llama of four shards, and what it is pruned to."""
    root = tmp_path_factory.mktemp("sources")
    model = make_tiny("llama")
    model.save_pretrained(root / "dense", max_shard_size="60KB")
    save_pruned(repack(model, PLANS["uneven"](model)), root / "pruned")
    return root


@pytest.fixture
def dense(sources: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sources / "dense", tmp_path / "source"))


@pytest.fixture
def plan(sources: Path) -> PruningPlan:
    return read_current_plan(str(sources / "pruned"))


def edit_json(folder: Path, name: str, edit: Callable[[dict], object]) -> None:
    values = json.loads((folder / name).read_text())
    edit(values)
    (folder / name).write_text(json.dumps(values))


def edit_config(folder: Path, **changes) -> None:
    edit_json(folder, "config.json", lambda config: config.update(changes))


def edit_shard(folder: Path, edit: Callable[[dict], object]) -> None:
    tensors = load_file(folder / SECOND)
    edit(tensors)
    save_file(tensors, folder / SECOND, metadata={"format": "pt"})


def lose_tensor(folder: Path) -> None:
    edit_shard(folder, lambda tensors: tensors.pop(UP))
    edit_json(folder, INDEX, lambda index: index["weight_map"].pop(UP))


def add_adapter(folder: Path) -> None:
    name = UP.replace("weight", "lora_A.weight")
    edit_shard(folder, lambda tensors: tensors.update({name: torch.ones(2, 2)}))
    edit_json(folder, INDEX, lambda index: index["weight_map"].update({name: SECOND}))


def index_wrongly(folder: Path) -> None:
    edit_json(folder, INDEX, lambda index: index["weight_map"].update({"lm_head.weight": SECOND}))


def lose_weights(folder: Path) -> None:
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink()


# How a folder goes bad; what loading says, and what repacking from disk to disk says if it differs.
BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "shard of zeros": (
        lambda folder: (folder / SECOND).write_bytes(b"\0" * 64),
        rf"source/{SECOND} is corrupt or cut short: .*header.*\. Fetch or save the model again",
        "",
    ),
    "shard cut short": (
        lambda folder: (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-100]),
        rf"{SECOND} is corrupt or cut short: .*file not fully covered",
        "",
    ),
    "missing shard": (lambda folder: (folder / SECOND).unlink(), rf"source lacks {SECOND}\.", ""),
    "missing tensor": (
        lose_tensor,
        rf"weights of .*source lack 1 tensors that its config asks for: {UP}",
        rf"The weights lack 1 tensors that the config asks for: {UP}",
    ),
    "adapter in a block": (
        add_adapter,
        r"hold 1 tensors more than its config asks for: .*layers\.0\.mlp\.up_proj\.lora_A",
        r"hold 1 tensors in blocks .*up_proj\.lora_A.weight.* or adapters were not merged",
    ),
    "index that disagrees": (
        index_wrongly,
        rf"{INDEX} of .*source says that lm_head.weight is in {SECOND}, it is not",
        "",
    ),
    "index that is no JSON": (
        lambda folder: (folder / INDEX).write_text("{"),
        rf"source/{INDEX} cannot be read: it is not JSON",
        "",
    ),
    "tensor in two shards": (
        partial(edit_shard, edit=lambda tensors: tensors.update({NORM: torch.ones(48)})),
        r"model\.norm\.weight is in both model-0000\d-of-00004\.safetensors and model-0000\d-of",
        "",
    ),
    "no weights": (
        lose_weights,
        r"Expected a model with weights in .*source, found config.json and no \*\.safetensors",
        rf"Expected model\.safetensors or {INDEX} in .*source, found neither",
    ),
    "config of another vocabulary": (
        partial(edit_config, vocab_size=50),
        r"makes lm_head\.weight \[50, 48\], the weights have \[99, 48\]: .*of different models",
        r"config makes model\.embed_tokens\.weight \[50, 48\], the weights have \[99, 48\]",
    ),
    "config that is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"source cannot be loaded: .*config file at .* is not a valid JSON",
        "",
    ),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        r"Expected a Hugging Face model in .*source, found no config\.json there",
        "",
    ),
}


@pytest.mark.parametrize(("spoil", "loading", "repacking"), BAD.values(), ids=BAD.keys())
def test_a_bad_source_is_refused(spoil, loading, repacking, dense, plan, tmp_path) -> None:
    spoil(dense)
    with pytest.raises(NirvanaError, match=loading):
        load_model(AutoModelForCausalLM, str(dense))
    with pytest.raises(NirvanaError, match=repacking or loading):
        repack_checkpoint(dense, plan, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("changes", "loading", "repacking", "planning"),
    [
        (
            {"num_hidden_layers": 2},
            r"hold 9 tensors more than its config asks for: model\.layers\.2\.input",
            r"hold 9 tensors in blocks that the config does not ask for: model\.layers\.2\.input",
            "made for num_layers 3 of the decoder, the model has 2",
        ),
        (
            {"num_hidden_layers": 4},
            r"lack 9 tensors that its config asks for: model\.layers\.3\.input",
            r"lack 9 tensors that the config asks for: model\.layers\.3\.input",
            "made for num_layers 3 of the decoder, the model has 4",
        ),
        (
            {"intermediate_size": 40},
            r"makes model\.layers\.0\.mlp\.down_proj\.weight \[48, 40\], .* have \[48, 48\]",
            r"makes model\.layers\.0\.mlp\.gate_proj\.weight \[40, 48\], .* have \[48, 48\]",
            "made for intermediate_size 48 of the decoder, the model has 40",
        ),
        (
            {"num_key_value_heads": 6},
            r"makes model\.layers\.0\.self_attn\.k_proj\.weight \[48, 48\], .* have \[24, 48\]",
            r"makes model\.layers\.0\.self_attn\.k_proj\.weight \[48, 48\], .* have \[24, 48\]",
            "made for num_kv_heads 3 of the decoder, the model has 6",
        ),
    ],
    ids=["fewer layers", "more layers", "fewer neurons", "more KV heads"],
)
def test_a_config_of_another_model_is_refused(
    changes, loading, repacking, planning, dense, plan, tmp_path
) -> None:
    edit_config(dense, **changes)
    with pytest.raises(NirvanaError, match=loading):
        load_model(AutoModelForCausalLM, str(dense))
    with pytest.raises(NirvanaError, match=planning):
        repack_checkpoint(dense, plan, tmp_path / "out")
    wrong = read_current_plan(str(dense))  # made for the wrong config, so that it fits that
    with pytest.raises(NirvanaError, match=repacking):
        repack_checkpoint(dense, wrong, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


PRUNED_FILES = ("config.json", "model.safetensors", "modeling_pruned.py", "plan.json")


@pytest.mark.parametrize("name", PRUNED_FILES)
def test_a_pruned_checkpoint_is_held_against_its_manifest(name, sources, plan, tmp_path) -> None:
    folder = Path(shutil.copytree(sources / "pruned", tmp_path / "source"))
    data = bytearray((folder / name).read_bytes())
    data[-9] ^= 1  # one bit, in a weight or in a text
    (folder / name).write_bytes(data)
    message = rf"source/{name} is corrupt: it differs from the checkpoint's manifest\.json"
    assert_refused(folder, plan, message, message)
    (folder / name).unlink()
    lacks = rf"The checkpoint .*source lacks {name}\. Copy or write it again"
    loading, repacking = {
        "plan.json": ("found no plan.json and", "its plan is not with it: load it by load_pruned"),
        "config.json": (lacks, "Expected a Hugging Face model in .*, found no config"),
    }.get(name, (lacks, lacks))
    assert_refused(folder, plan, loading, repacking)


def assert_refused(folder: Path, plan: PruningPlan, loading: str, repacking: str) -> None:
    with pytest.raises(NirvanaError, match=loading):
        load_pruned(folder)
    with pytest.raises(NirvanaError, match=repacking):
        repack_checkpoint(folder, plan, folder.with_name("out"))
    assert [path.name for path in folder.parent.iterdir()] == ["source"]


def test_a_bad_manifest_is_refused(sources, plan, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sources / "pruned", tmp_path / "source"))
    for text in ("{", "[]", '{"files": 3}'):
        (folder / "manifest.json").write_text(text)
        assert_refused(
            folder, plan, *[r"source/manifest\.json cannot be read: .*\. Copy or write"] * 2
        )


def test_weights_in_other_formats_are_refused_from_disk_to_disk(dense, plan, tmp_path) -> None:
    model = load_model(AutoModelForCausalLM, str(dense))
    lose_weights(dense)
    torch.save(model.state_dict(), dense / "pytorch_model.bin")
    with pytest.raises(NirvanaError, match=r"in other formats are not read: load .* save it"):
        repack_checkpoint(dense, plan, tmp_path / "out")
    again = load_model(AutoModelForCausalLM, str(dense))  # transformers reads them
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_packed_weights_are_refused_from_disk_to_disk(dense, plan, tmp_path) -> None:
    edit_shard(dense, lambda tensors: tensors.update({UP: tensors[UP].to(torch.int8)}))
    with pytest.raises(NirvanaError, match=rf"{UP} is stored as I8: the weights are quantized"):
        repack_checkpoint(dense, plan, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
