"""Text that is generated step by step; the oracle is transformers' own `generate`."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from profiles.runners.runner import open_stepper
from profiles.runners.torch_runner import TorchRunner
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import FakeClock, FakeRunner, noisy, save_encoder
from tests.profiles.tiny_decoder import save_decoder
from tests.pruning.tiny_models import make_tiny, uneven_plan

PROMPT = np.random.default_rng(0).integers(3, 99, (2, 5))
NUM_NEW = 4


def generate(stepper, prompt: np.ndarray) -> np.ndarray:
    stepper.start(len(prompt))
    found = [prompt]
    for _ in range(NUM_NEW):
        found.append(stepper.step(found[-1]))
    return np.concatenate(found, axis=1)


def test_torch_generates_as_transformers_does() -> None:
    dense = make_tiny("llama", num_hidden_layers=2)
    model = repack(dense, uneven_plan(dense)).eval()
    ids = torch.from_numpy(PROMPT)
    options = {"max_new_tokens": NUM_NEW, "min_new_tokens": NUM_NEW, "do_sample": False}
    mask = torch.ones_like(ids)
    expected = model.generate(ids, attention_mask=mask, pad_token_id=0, **options).numpy()
    stepper = open_stepper(TorchRunner(model))
    np.testing.assert_array_equal(generate(stepper, PROMPT), expected)
    np.testing.assert_array_equal(generate(stepper, PROMPT), expected)  # from an empty cache again


def test_onnx_hands_its_cache_on(tmp_path: Path) -> None:
    """The graph's next token is the sum of all tokens so far, which only its cache knows."""
    runner = OnnxRuntimeRunner(save_decoder(tmp_path / "model.onnx"), num_threads=1)
    stepper = open_stepper(runner)
    for prompt in (PROMPT, PROMPT[:1]):
        found = generate(stepper, prompt)
        for step in range(NUM_NEW):
            seen = found[:, : prompt.shape[1] + step]
            np.testing.assert_array_equal(found[:, seen.shape[1]], seen.sum(axis=1) % 99)


def test_what_does_not_generate_is_refused(tmp_path: Path) -> None:
    encoder = OnnxRuntimeRunner(save_encoder(tmp_path / "encoder.onnx"), num_threads=1)
    with pytest.raises(NirvanaError, match="takes input_ids, attention_mask and no cache"):
        open_stepper(encoder)
    with pytest.raises(NirvanaError, match="is run by fake, in which no text is generated here"):
        open_stepper(FakeRunner(FakeClock(), noisy(0.01)))


def test_a_graph_that_takes_something_else_is_refused(tmp_path: Path) -> None:
    model = onnx.load(save_decoder(tmp_path / "model.onnx"))
    model.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch"]))
    onnx.save(model, tmp_path / "model.onnx")
    stepper = open_stepper(OnnxRuntimeRunner(tmp_path / "model.onnx", num_threads=1))
    stepper.start(2)
    with pytest.raises(NirvanaError, match=r"takes pixels, for which no values .* input_ids, att"):
        stepper.step(PROMPT)
