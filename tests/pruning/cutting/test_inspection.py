"""What `inspect` says of a folder is what the loaded model has."""

import json
from pathlib import Path

import pytest

from pruning.checkpoints.checkpoint import load_pruned
from pruning.cutting.inspection import inspect_model, read_current_plan
from pruning.cutting.repack_checkpoint import repack_checkpoint
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from tests.pruning.tiny_models import PLANS, make_tiny

NAMES = ("bert", "vit", "qwen3", "gpt2", "falcon-multi-query", "t5", "bart")


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_are_those_of_the_weights(name: str, tmp_path: Path) -> None:
    model = make_tiny(name)
    model.save_pretrained(tmp_path / "dense")
    dense = inspect_model(str(tmp_path / "dense"))
    assert dense.num_parameters == sum(p.numel() for p in model.parameters())
    assert len(dense.rows) == read_model(model).dims.num_layers
    _check_parts(dense, model)
    plan = PLANS["dropping"](model)
    repack_checkpoint(tmp_path / "dense", plan, tmp_path / "small")
    small, loaded = inspect_model(str(tmp_path / "small")), load_pruned(tmp_path / "small")
    assert small.num_parameters == sum(p.numel() for p in loaded.parameters())
    _check_parts(small, loaded)
    assert read_current_plan(str(tmp_path / "small")) == plan


def _check_parts(structure, model) -> None:
    """Blocks are their attentions and MLPs, and norms: nothing with two dimensions is left over."""
    parts = sum(
        row.attention_parameters + row.cross_attention_parameters + row.mlp_parameters
        for row in structure.rows
    )
    lists = ("layer.", "layers.", "block.", "h.")
    blocks = {n: p for n, p in model.named_parameters() if any(f".{x}" in f".{n}" for x in lists)}
    assert structure.block_parameters == sum(p.numel() for p in blocks.values())
    norms = [p for n, p in blocks.items() if any(x in n.lower() for x in ("norm", "ln_"))]
    tables = [p for n, p in blocks.items() if "relative_attention_bias" in n]
    own = [p for n, p in blocks.items() if n.endswith(("q_norm.weight", "k_norm.weight"))]
    rest = sum(p.numel() for p in [*norms, *tables]) - sum(p.numel() for p in own)
    assert structure.block_parameters - parts == rest


def test_dropped_blocks_keep_the_others_numbers(tmp_path: Path) -> None:
    model = make_tiny("llama")
    model.save_pretrained(tmp_path / "dense")
    repack_checkpoint(tmp_path / "dense", PLANS["block"](model), tmp_path / "small")
    assert [row.layer for row in inspect_model(str(tmp_path / "small")).rows] == [1, 2]


def test_a_dense_model_has_the_dense_plan(tmp_path: Path) -> None:
    model = make_tiny("bart")
    model.save_pretrained(tmp_path)
    plan = read_current_plan(str(tmp_path))
    assert plan.layers == PruningPlan.dense(plan.dims, "").layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 7}, "makes no BertModel: "),
        ({"architectures": ["NoSuchModel"]}, "transformers has no NoSuchModel"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights are quantized"),
    ],
)
def test_configs_that_make_no_model_are_refused(tmp_path: Path, changes: dict, message) -> None:
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32}
    config |= {"num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 9}
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(NirvanaError, match=message):
        inspect_model(str(tmp_path))
