import json
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from pruning.checkpoints.checkpoint import load_plan, load_pruned, save_pruned
from pruning.checkpoints.checkpoint_files import check_files
from pruning.cutting.repack import repack
from pruning.cutting.repack_checkpoint import repack_checkpoint
from tests.pruning.checkpoints.test_checkpoint import (
    compute_logits,
    even_plan,
    load_with_remote_code,
)
from tests.pruning.tiny_models import PLANS, TINY, make_tiny
from tests.pruning.tiny_text import write_tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Save each tiny model once, when it is asked for; no test changes the model or the folder."""

    @cache
    def save(name: str):
        folder = tmp_path_factory.mktemp("source") / name
        model = make_tiny(name)
        model.save_pretrained(folder)
        return folder, model

    return save


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        k: t for path in sorted(folder.glob("*.safetensors")) for k, t in load_file(path).items()
    }


def assert_same_tensors(came: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(came) == set(expected)
    for name, tensor in expected.items():
        assert came[name].dtype == tensor.dtype and torch.equal(came[name], tensor), name


def read_config(folder: Path) -> dict:
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    return config


ALL_PLANS = {**PLANS, "even": partial(even_plan, heads=True, neurons=True, dropped=1)}


@pytest.mark.parametrize("make_plan", ALL_PLANS.values(), ids=ALL_PLANS.keys())
@pytest.mark.parametrize("name", TINY)
def test_from_disk_to_disk_is_as_in_memory(name: str, make_plan, sources, tmp_path) -> None:
    folder, model = sources(name)
    plan = make_plan(model)
    save_pruned(repack(model, plan), tmp_path / "memory")
    result = repack_checkpoint(folder, plan, tmp_path / "disk")
    assert_same_tensors(read_tensors(tmp_path / "disk"), read_tensors(tmp_path / "memory"))
    assert read_config(tmp_path / "disk") == read_config(tmp_path / "memory")
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {
        path.name for path in (tmp_path / "memory").iterdir()
    }
    assert load_plan(tmp_path / "disk") == plan
    assert result.is_plain is ("nirvana" not in read_config(tmp_path / "disk"))
    assert result.architecture == read_config(tmp_path / "disk")["architectures"][0]
    assert result.source_bytes > result.size_bytes
    check_files(tmp_path / "disk")  # its manifest holds


@pytest.mark.parametrize("plan_name", ["uneven", "block"])
def test_a_sharded_source_keeps_its_shards_and_its_index(plan_name: str, tmp_path) -> None:
    model = make_tiny("llama")
    model.save_pretrained(tmp_path / "source", max_shard_size="20KB")
    plan = PLANS[plan_name](model)
    result = repack_checkpoint(tmp_path / "source", plan, tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    sources = sorted((tmp_path / "source").glob("*.safetensors"))
    gone = "model.layers.0." if plan_name == "block" else "none"  # the block that was dropped
    left = [path for path in sources if not all(name.startswith(gone) for name in load_file(path))]
    assert (len(left) < len(sources)) is (plan_name == "block")
    assert len(shards) == len(left) > 3
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    held = {name: shard.name for shard in shards for name in load_file(shard)}
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == result.size_bytes
    expected = compute_logits(repack(model, plan))
    assert torch.equal(compute_logits(load_pruned(tmp_path / "out")), expected)
    assert torch.equal(compute_logits(load_with_remote_code("llama", tmp_path / "out")), expected)


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    model = make_tiny("llama").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "source")
    plan = PLANS["uneven"](model)
    repack_checkpoint(tmp_path / "source", plan, tmp_path / "out")
    assert {t.dtype for t in read_tensors(tmp_path / "out").values()} == {torch.bfloat16}
    assert load_pruned(tmp_path / "out").dtype == torch.bfloat16
    save_pruned(repack(model, plan), tmp_path / "memory")
    assert_same_tensors(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "memory"))


def test_a_source_saved_from_the_base_class_works(sources, tmp_path: Path) -> None:
    base = make_tiny("bert").base_model
    base.save_pretrained(tmp_path / "source")
    plan = PLANS["uneven"](base)
    result = repack_checkpoint(tmp_path / "source", plan, tmp_path / "out")
    assert result.architecture == "PrunedBertModel"
    assert_same_tensors(read_tensors(tmp_path / "out"), dict(repack(base, plan).state_dict()))
    AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)


def rename_tensors(folder: Path, rename, extra: dict[str, torch.Tensor] | None = None) -> None:
    tensors = {rename(name): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file({**tensors, **(extra or {})}, folder / WEIGHTS, metadata={"format": "pt"})


def to_gamma_and_beta(name: str) -> str:
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return name.replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize(
    ("name", "rename", "extra"),
    [
        ("bert", to_gamma_and_beta, {"bert.embeddings.position_ids": torch.arange(80)}),
        # As the oldest checkpoints of GPT-2 are: no prefix, and the causal mask in each block.
        (
            "gpt2",
            lambda name: name.removeprefix("transformer."),
            {f"h.{i}.attn.bias": torch.ones(1, 1, 4, 4) for i in range(3)},
        ),
        (
            "llama",
            str,
            {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in (0, 1)},
        ),
    ],
    ids=["bert", "gpt2", "llama"],
)
def test_tensors_under_old_names_are_found(name, rename, extra, tmp_path) -> None:
    model = make_tiny(name)
    model.save_pretrained(tmp_path / "source")
    rename_tensors(tmp_path / "source", rename, extra)
    plan = PLANS["block"](model)
    result = repack_checkpoint(tmp_path / "source", plan, tmp_path / "out")
    assert result.extra_tensors == ()
    loaded = load_pruned(tmp_path / "out")
    assert_same_tensors(dict(loaded.state_dict()), dict(repack(model, plan).state_dict()))


def test_progress_goes_from_nothing_to_all_bytes(sources, tmp_path: Path) -> None:
    folder, model = sources("bert")
    calls: list[tuple[int, int]] = []
    plan = PLANS["dropping"](model)
    repack_checkpoint(folder, plan, tmp_path / "out", progress=lambda *call: calls.append(call))
    done, totals = zip(*calls, strict=True)
    assert done[0] == 0
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]}
    kept = sum(t.nbytes for t in read_tensors(tmp_path / "out").values())
    assert kept < done[-1] < (folder / WEIGHTS).stat().st_size


def test_extra_tensors_outside_the_blocks_go_along_and_are_named(tmp_path: Path) -> None:
    model = make_tiny("bert")
    model.save_pretrained(tmp_path / "source")
    rename_tensors(tmp_path / "source", str, {"value_head.weight": torch.ones(3)})
    result = repack_checkpoint(tmp_path / "source", PLANS["uneven"](model), tmp_path / "out")
    assert result.extra_tensors == ("value_head.weight",)
    assert read_tensors(tmp_path / "out")["value_head.weight"].tolist() == [1, 1, 1]
    assert ("not asked for by the config, taken along", "value_head.weight") in result.headline()
    load_pruned(tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    model = make_tiny("bert")
    model.bert.encoder.layer[1].output.dense.weight.data[3, 5] = value
    model.save_pretrained(tmp_path / "source")
    result = repack_checkpoint(tmp_path / "source", PLANS["uneven"](model), tmp_path / "out")
    assert result.nan_tensors == ("bert.encoder.layer.1.output.dense.weight",)
    assert "WARNING: NaN or infinity in" in dict(result.headline())
    with pytest.warns(
        UserWarning, match=r"out: 1 tensors hold NaN or infinity, the first is bert\."
    ):
        load_pruned(tmp_path / "out")


def test_what_belongs_to_the_model_comes_along(tmp_path: Path) -> None:
    source = write_tiny_model(tmp_path / "source")
    model = make_tiny("llama")
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(source)
    (source / "README.md").write_text("# Card\n")
    (source / "optimizer.pt").write_bytes(b"not wanted")
    repack_checkpoint(source, PLANS["uneven"](model), tmp_path / "out")
    tokenizers = [AutoTokenizer.from_pretrained(tmp_path / name) for name in ("source", "out")]
    assert tokenizers[0]("play dice") == tokenizers[1]("play dice")
    loaded = load_with_remote_code("llama", tmp_path / "out")
    assert loaded.generation_config.max_new_tokens == 7
    assert (tmp_path / "out/README.md").read_text() == "# Card\n"
    assert not (tmp_path / "out/optimizer.pt").exists()
    listed = json.loads((tmp_path / "out/manifest.json").read_text())["files"]
    assert {"README.md", "tokenizer.json", "generation_config.json"} <= set(listed)


def test_buffers_of_old_versions_are_left_behind(tmp_path: Path) -> None:
    """GPT-2 used to store its causal mask, and GPT-NeoX its rotary frequencies, in every block."""
    model = make_tiny("gpt2")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    state["transformer.h.1.attn.bias"] = torch.ones(1, 1, 8, 8)
    del state["lm_head.weight"]  # tied
    model.config.save_pretrained(tmp_path / "dense")
    model.config.architectures = ["GPT2LMHeadModel"]
    model.config.save_pretrained(tmp_path / "dense")
    save_file(state, tmp_path / "dense" / "model.safetensors", metadata={"format": "pt"})
    plan = PLANS["block"](model)
    result = repack_checkpoint(tmp_path / "dense", plan, tmp_path / "small")
    assert result.extra_tensors == ()
    assert not [
        n
        for n in load_file(tmp_path / "small" / "model.safetensors")
        if "attn.bias" in n and "c_attn" not in n
    ]
    assert load_pruned(tmp_path / "small").transformer.h[0].attn.num_heads == 4


def test_the_parts_of_a_sentence_transformer_go_along(tmp_path: Path) -> None:
    make_tiny("bert").save_pretrained(tmp_path / "dense")
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "../outside"}, {"path": "absent"}]
    (tmp_path / "dense" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "dense" / "1_Pooling").mkdir()
    (tmp_path / "dense" / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "dense" / "onnx").mkdir()  # of the dense model: it would be wrong beside the pruned
    repack_checkpoint(tmp_path / "dense", PLANS["uneven"](make_tiny("bert")), tmp_path / "small")
    assert (tmp_path / "small" / "1_Pooling" / "config.json").read_text() == "{}"
    assert [path.name for path in (tmp_path / "small").iterdir() if path.is_dir()] == ["1_Pooling"]
