"""The form for TensorRT: against the portable one in ONNX Runtime, and in real builds."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporters.engines.build_engine import build_engine
from exporters.engines.engine_config import EngineConfig, ShapeRange
from exporters.forms.apply_form import apply_form
from pruning.errors import NirvanaError
from tests.exporters.forms.formed import assert_same_as_portable, count, form, load, open_session

CACHE_LENGTH = 24
PREFILL = {"length": ShapeRange(min=2, opt=8, max=16), "past": ShapeRange(min=1, opt=1, max=1)}
DECODE = {"length": ShapeRange(min=1, opt=1, max=1), "past": ShapeRange(min=1, opt=16, max=32)}


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


@pytest.mark.tensorrt
@pytest.mark.parametrize("shapes", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_every_attention_of_a_pruned_decoder_fuses(shapes, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx (extra rtx) is not installed")
    onnx.save(ir.to_proto(form("llama", "uneven", "tensorrt")[0]), tmp_path / "model.onnx")
    config = EngineConfig(flavour="tensorrt_rtx", batch=ShapeRange(min=1, opt=2, max=4), **shapes)
    result = build_engine(tmp_path / "model.onnx", tmp_path / "engine", config)
    assert (result.num_fused_attentions, result.num_attention_layers) == (3, 3)
    assert result.warnings == ()
