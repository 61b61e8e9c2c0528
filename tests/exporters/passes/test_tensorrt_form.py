"""The form for TensorRT: against the portable one in ONNX Runtime, and in real builds."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from exporters.compare.case_run import fill_buffer
from exporters.compare.checkpoint_artefact import describe_parts
from exporters.compare.comparison import compare_artefacts
from exporters.compare.onnx_artefact import open_onnx
from exporters.engines.build_engine import build_engine
from exporters.engines.engine_config import EngineConfig, ShapeRange
from exporters.export_folder import describe_graph
from exporters.export_stage import check_promised
from exporters.passes.known_forms import apply_form
from exporters.passes.scatter_cache import require_buffers
from exporters.passes.write_attention_operator import WriteAttentionOperator
from exporters.precision.convert_precision import convert_precision
from exporters.trace.graph_cache import give_buffers
from exporters.trace.graph_part import GraphTensor
from pruning.errors import NirvanaError
from tests.exporters.passes.formed import (
    assert_same_as_portable,
    count,
    form,
    load,
    open_session,
    trace,
)
from tests.exporters.passes.graphs import cached, reasons

CACHE_LENGTH = 24
CONFIG = EngineConfig(
    flavour="tensorrt_rtx",
    batch=ShapeRange(min=1, opt=2, max=4),
    length=ShapeRange(min=2, opt=8, max=16),
    past=ShapeRange(min=1, opt=16, max=20),
)


def test_a_decoder_has_one_attention_operator_a_layer() -> None:
    model, outcomes = form("llama", "uneven", "tensorrt")
    assert count(model, "Attention") == outcomes["WriteAttentionOperator"].num_changed == 3
    assert count(model, "Expand") < count(form("llama", "uneven", "portable")[0], "Expand")
    assert_same_as_portable(model, "llama", "uneven")


def test_an_encoder_stays_in_its_parts() -> None:
    model, outcomes = form("bert", "uneven", "tensorrt")
    (reason,) = {refusal.reason for refusal in outcomes["WriteAttentionOperator"].refusals}
    assert reason == "it has no cache: its parts are fused as they are"
    assert_same_as_portable(model, "bert", "uneven")


def test_a_cache_buffer_holds_what_a_growing_cache_holds() -> None:
    model, outcomes = form("llama", "uneven", "tensorrt", cache_length=CACHE_LENGTH)
    assert count(model, "TensorScatter") == 2 * outcomes["ScatterCache"].num_changed == 6
    plain, buffered = (
        open_session(form("llama", "uneven", "portable")[0]),
        open_session(model),
    )
    rng = np.random.default_rng(0)
    names = [i.name for i in plain.get_inputs() if "past" in i.name]
    shapes = {i.name: i.shape for i in buffered.get_inputs()}
    assert all(shapes[name][2] == CACHE_LENGTH for name in names)
    # Whatever is in the unwritten end must not count.
    caches = {n: rng.standard_normal((2, *shapes[n][1:])).astype(np.float32) for n in names}
    written = 0
    mask = np.zeros((2, 0), np.int64)
    for step, new in enumerate((5, 1, 1)):
        added = np.ones((2, new), np.int64)
        added[1, : 2 * (step == 0)] = 0
        mask = np.concatenate([mask, added], axis=1)
        feeds = {
            "input_ids": rng.integers(3, 99, (2, new)),
            "attention_mask": mask,
            "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -new:],
        }
        short = {name: cache[:, :, :written] for name, cache in caches.items()}
        expected = plain.run(None, {**feeds, **short})
        came = buffered.run(None, {**feeds, **caches})
        written += new
        live = added.astype(bool)
        np.testing.assert_allclose(came[0][live], expected[0][live], atol=1e-5, rtol=1e-4)
        for before, after in zip(expected[1:], came[1:], strict=True):
            seen = mask.astype(bool)
            a, b = (c.transpose(0, 2, 1, 3)[:, :written][seen] for c in (before, after))
            np.testing.assert_allclose(b, a, atol=1e-5, rtol=1e-4)
        caches = dict(zip(names, came[1:], strict=True))


def test_bad_buffers_are_refused() -> None:
    with pytest.raises(NirvanaError, match="cache_length is for the form tensorrt"):
        apply_form(load("bert", "uneven"), "ort-cpu", cache_length=8)
    with pytest.raises(NirvanaError, match="length of at least 1, got 0"):
        apply_form(load("bert", "uneven"), "tensorrt", cache_length=0)


def test_an_older_opset_is_refused() -> None:
    model = load("gpt2", "uneven")  # of opset 20
    with pytest.raises(
        NirvanaError, match="for TensorRT needs opset 23 or newer, the graph has 20"
    ):
        apply_form(model, "tensorrt")


@pytest.mark.parametrize("cache_length", [None, CACHE_LENGTH], ids=["growing", "in-place"])
@pytest.mark.tensorrt
def test_every_attention_of_a_pruned_decoder_fuses(cache_length, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx (extra rtx) is not installed")
    model, _ = form("llama", "uneven", "tensorrt", cache_length=cache_length)
    onnx.save(ir.to_proto(model), tmp_path / "model.onnx")
    result = build_engine(tmp_path / "model.onnx", tmp_path / "engine", CONFIG)
    assert (result.num_fused_attentions, result.num_attention_layers) == (3, 3)
    assert result.warnings == ()
    assert set(result.profile_names) == {"prefill", "decode"}
    if cache_length:  # a cast before TensorScatter would have failed the build
        shape = result.optimisation_profile["past_key_values.0.key"]
        assert shape["max"][2] == CACHE_LENGTH


def test_a_squeezed_attention_stays_in_its_parts() -> None:
    """TensorRT's Attention takes no softcap."""
    model = cached(
        (
            "scores = Add(scaled, mask)",
            "c = Div(scaled, cap) t = Tanh(c) u = Mul(t, cap) scores = Add(u, mask)",
        ),
        ("float scale = {0.5}", "float scale = {0.5}, float cap = {30.0}"),
        opset=24,
    )
    assert reasons(WriteAttentionOperator(), model) == [
        "TensorRT's Attention takes no softcap: it stays in its parts"
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_with_buffers_is_compared_with_torch(precision: str, tmp_path: Path) -> None:
    part, _ = trace("llama", "uneven")
    model, outcomes = form("llama", "uneven", "tensorrt", cache_length=CACHE_LENGTH)
    require_buffers(model, list(outcomes.values()))
    whole, path = tmp_path / "fp32" / "model.onnx", tmp_path / precision / "model.onnx"
    whole.parent.mkdir()
    onnx.save(ir.to_proto(model), whole)
    if precision == "fp16":
        convert_precision(whole, path, "fp16")
    check_promised(path, give_buffers(part, CACHE_LENGTH))
    described = describe_graph(path, None)
    caches = [tensor for tensor in described["inputs"] if "past" in tensor["name"]]
    assert {(t["dtype"], t["shape"][2]) for t in caches} == {
        ("float16" if precision == "fp16" else "float32", CACHE_LENGTH)
    }
    source = describe_parts("torch", part.module.model, [part])
    candidate = open_onnx(path)
    assert candidate.facts.max_length == CACHE_LENGTH
    comparison = compare_artefacts(source, candidate)
    assert comparison.passed, comparison.failures
    # Of fp16, a rounding of each value in three layers; its gate is 0.02.
    assert comparison.max_abs_difference < (5e-3 if precision == "fp16" else 1e-5)
    steps = {found.what for found in comparison.cases}
    assert {"prompt", "step 1", "step 3"} <= steps
    assert max(found.case.length for found in comparison.cases) == CACHE_LENGTH - 3


def test_a_prefill_fills_the_buffer_of_the_steps() -> None:
    spec = GraphTensor(name="past_key_values.0.key", dtype=torch.float32, shape=("batch", 2, 7, 4))
    cache = np.ones((3, 2, 5, 4), np.float32)
    filled = fill_buffer(cache, spec)
    assert filled.shape == (3, 2, 7, 4)
    assert filled[:, :, :5].all() and not filled[:, :, 5:].any()
    assert fill_buffer(filled, spec) is filled


def test_a_cache_that_is_no_buffer_is_said() -> None:
    model = load("llama", "uneven")
    outcomes = apply_form(model, "tensorrt")
    with pytest.raises(NirvanaError, match=r"past_key_values\.0\.key cannot be a cache buffer"):
        require_buffers(model, outcomes)
