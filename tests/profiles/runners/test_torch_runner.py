"""Oracle: the model called by itself."""

import numpy as np
import pytest
import torch

from exporters.export_config import ExportConfig
from exporters.trace.graph_inputs import draw_inputs
from exporters.trace.list_parts import list_parts
from profiles.comparing.comparison import compare_latency
from profiles.measuring.measure_config import ProfileConfig
from profiles.runners.torch_runner import TorchRunner
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import FakeClock
from tests.pruning.tiny_models import make_tiny, uneven_plan


def draw(model, sizes) -> dict[str, np.ndarray]:
    part = list_parts(model, ExportConfig())[-1]
    tensors = draw_inputs(part.inputs, sizes, padding="right")
    return {t.name: v.numpy() for t, v in zip(part.inputs, tensors, strict=True)}


@pytest.mark.parametrize("mode", ["eager", "sdpa"])
def test_a_pruned_encoder_computes_what_it_does_alone(mode: str) -> None:
    dense = make_tiny("bert")
    model = repack(dense, uneven_plan(dense))
    inputs = draw(model, {"batch": 3, "sequence": 9})
    with torch.no_grad():
        expected = model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits
    runner = TorchRunner(model, mode=mode)
    found = runner.bind(inputs)()
    torch.testing.assert_close(torch.from_numpy(found["logits"]), expected)
    assert runner.describe()["attention"] == mode and runner.describe()["mode"] == mode
    assert [spec.name for spec in runner.inputs] == list(inputs)


def test_a_decoding_step_takes_and_gives_its_cache() -> None:
    model = make_tiny("llama")
    runner = TorchRunner(model, mode="sdpa")
    found = runner.bind(draw(model, {"batch": 2, "sequence": 1, "past_sequence": 5}))()
    assert found["logits"].shape == (2, 1, 99)
    assert found["present.0.key"].shape == (2, 3, 6, 8)


def test_a_compiled_model_goes_through_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes minutes and a C++ compiler: that it is asked for is looked at here."""
    compiled = []

    def compile_module(module):
        compiled.append(module)
        return module

    monkeypatch.setattr(torch, "compile", compile_module)
    model = make_tiny("bert")
    runner = TorchRunner(model, mode="compile")
    runner.bind(draw(model, {"batch": 2, "sequence": 4}))()
    assert len(compiled) == 1 and runner.describe()["attention"] == "sdpa"


def test_two_torch_models_are_compared_like_any_others() -> None:
    dense = make_tiny("bert")
    runners = [TorchRunner(m, mode="eager") for m in (dense, repack(dense, uneven_plan(dense)))]
    clock = FakeClock()

    def tick() -> float:
        clock.seconds += 0.01
        return clock.seconds

    config = ProfileConfig(
        batch_sizes=(2,),
        length=8,
        vocab_size=99,
        min_samples=4,
        min_seconds=0.0,
        warmup_seconds=0.0,
    )
    (case,) = compare_latency(*runners, config, clock=tick).cases
    assert case.dense.num_samples >= 4


def test_what_cannot_be_run_is_refused() -> None:
    with pytest.raises(NirvanaError, match="mode must be one of eager, sdpa, compile, got 'jit'"):
        TorchRunner(make_tiny("bert"), mode="jit")
    with pytest.raises(NirvanaError, match=r"numpy, which has no torch\.bfloat16"):
        TorchRunner(make_tiny("bert").bfloat16())
    with pytest.raises(NirvanaError, match="Choose the mode eager"):
        TorchRunner(make_tiny("deberta-v2"), mode="sdpa")
