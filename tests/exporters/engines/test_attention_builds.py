"""Which attentions become one kernel, in real builds of graphs of one attention."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.engines import build_engine as builder
from exporters.engines.build_engine import build_engine
from exporters.engines.engine_config import EngineConfig, ShapeRange
from exporters.precision.convert_precision import convert_precision
from pruning.allocation.constraints import Constraints, allowed_counts
from pruning.errors import NirvanaError
from pruning.plans.sub_block import SubBlock
from tests.exporters.engines.attention_graphs import (
    save_attention,
    save_attention_in_place,
    save_cached_attention,
)
from tests.exporters.engines.engine_models import export_bert, make_batch
from tests.pruning.allocation.small_dims import PLAIN

pytestmark = pytest.mark.tensorrt

CONFIG = {
    "flavour": "tensorrt_rtx",
    "batch": ShapeRange(min=1, opt=2, max=4),
    "length": ShapeRange(min=2, opt=8, max=16),
    "past": ShapeRange(min=1, opt=12, max=23),
    "require_fused_attention": True,
}
ALL_BUT_HOPPER = ("8.0", "8.6", "8.9", "12.0")


@pytest.fixture(scope="module", autouse=True)
def trt() -> object:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx (extra rtx) is not installed")


def least_heads(**limits: bool) -> int:
    """Return the fewest heads, one head a group, that an attention keeps under limits."""
    constraints = Constraints(may_drop=False, **limits)
    return min(allowed_counts(SubBlock(0, "attention"), PLAIN, constraints))


def test_one_head_under_a_mask_builds_only_when_mended(tmp_path: Path, monkeypatch) -> None:
    source = save_attention(tmp_path / "one.onnx", 1)
    lenient = EngineConfig(**{**CONFIG, "require_fused_attention": False})
    mended = build_engine(source, tmp_path / "mended", lenient)
    assert (mended.num_fused_attentions, mended.unfused_attentions) == (0, ("attention",))
    monkeypatch.setattr(builder, "_allow_unfused_attention", lambda trt, network: None)
    with pytest.raises(NirvanaError, match="could not build"):
        build_engine(source, tmp_path / "plain", lenient)


def test_constraints_of_the_plan_avoid_one_head(tmp_path: Path) -> None:
    free = save_attention(tmp_path / "free.onnx", least_heads())
    with pytest.raises(NirvanaError, match=r"1 of 1 attentions are not fused \(attention\)"):
        build_engine(free, tmp_path / "a", EngineConfig(**CONFIG))
    kept = save_attention(tmp_path / "kept.onnx", least_heads(avoid_one_head=True))
    config = EngineConfig(**CONFIG, compute_capabilities=ALL_BUT_HOPPER)
    result = build_engine(kept, tmp_path / "b", config)
    assert (result.num_fused_attentions, result.warnings) == (1, ())
    assert result.compute_capabilities == ("sm80", "sm86", "sm89", "sm120")


@pytest.mark.parametrize("save", [save_cached_attention, save_attention_in_place])
def test_a_cache_has_a_profile_for_prompts_and_one_for_steps(save, tmp_path: Path) -> None:
    source = save(tmp_path / "cache.onnx", 2)
    result = build_engine(source, tmp_path / "out", EngineConfig(**CONFIG))
    assert result.num_fused_attentions == 1
    assert result.profile_names == ("prefill", "decode")
    past = "past_key_values.0.key"
    sizes = {"prefill": 0, "decode": 12} if save is save_cached_attention else {}
    for name, profile in zip(result.profile_names, result.optimisation_profiles, strict=True):
        assert profile[past]["opt"] == [2, 2, sizes.get(name, 24), 16]


def test_bfloat16_fuses(tmp_path: Path) -> None:
    source = save_attention(tmp_path / "two.onnx", 2)
    result = build_engine(source, tmp_path / "out", EngineConfig(**CONFIG, precision="bf16"))
    assert (result.num_fused_attentions, result.precision_asked) == (1, "bf16")
    assert result.precision_found["bf16"] > 0


def test_an_int8_graph_is_built_as_it_is(tmp_path: Path) -> None:
    source = save_scaled(tmp_path / "int8.onnx")
    config = EngineConfig(**{**CONFIG, "require_fused_attention": False}, precision="graph")
    result = build_engine(source, tmp_path / "out", config)
    assert result.precision_asked == "int8"
    assert result.precision_found["int8"] > 0
    assert result.warnings == ()
    with pytest.raises(NirvanaError, match=r"int8\.onnx is in int8, and precision is fp16"):
        build_engine(source, tmp_path / "out", EngineConfig(**CONFIG))


def test_int8_of_an_export_for_tensorrt_builds(tmp_path: Path) -> None:
    source = export_bert(tmp_path / "bert.onnx", (2, 2))
    feeds = [{name: value.numpy() for name, value in make_batch(3, 12).items()}]
    config = EngineConfig(**{**CONFIG, "precision": "graph", "require_fused_attention": False})
    for symmetric in (True, False):
        path = tmp_path / f"{symmetric}.onnx"
        convert_precision(source, path, "int8-static", calibration=feeds, symmetric=symmetric)
        if symmetric:
            result = build_engine(path, tmp_path / "out", config)
            assert result.precision_found["int8"] > 0
            assert result.num_attention_layers == 2
        else:  # what CPUs take
            with pytest.raises(NirvanaError, match=r"refused .* node \S+ \(DequantizeLinear\)"):
                build_engine(path, tmp_path / "out", config)


def save_scaled(path: Path) -> Path:
    """Save a product of two matrices in int8, by their scales, and a Relu."""
    weight = np.random.default_rng(0).integers(-127, 127, (64, 64)).astype(np.int8)
    tensors = {
        "w8": weight,
        "scale": np.float32(0.05),
        "zero": np.int8(0),
        "w_scale": np.full(64, 0.01, np.float32),
        "w_zero": np.zeros(64, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x8"], name="q"),
        helper.make_node("DequantizeLinear", ["x8", "scale", "zero"], ["x_"], name="dq"),
        helper.make_node("DequantizeLinear", ["w8", "w_scale", "w_zero"], ["w"], name="w", axis=1),
        helper.make_node("MatMul", ["x_", "w"], ["z"], name="product"),
        helper.make_node("Relu", ["z"], ["y"], name="relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", "sequence", 64))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", "sequence", 64))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path
