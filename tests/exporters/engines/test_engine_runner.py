"""The runner against a stand-in for TensorRT; the oracle is ONNX Runtime on the same graph."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from exporters.compare.comparison import compare_artefacts
from exporters.compare.open_artefact import open_pair
from exporters.engines.engine_runner import EngineRunner
from pruning.errors import NirvanaError
from tests.exporters.engines import fake_tensorrt
from tests.exporters.engines.fake_tensorrt import (
    Context,
    DataType,
    Engine,
    FakeDevice,
    Runtime,
    TensorIOMode,
    TensorLocation,
    last_engine,
    make_flavour,
    stand_in_for_gpu,
    write_fake_engine,
)
from tests.profiles.fake_runners import make_encoder
from tests.profiles.tiny_decoder import save_decoder

NAMES = ("input_ids", "attention_mask")


def bounds(low: tuple[int, int], opt: tuple[int, int], high: tuple[int, int]):
    return dict.fromkeys(NAMES, (low, opt, high))


SMALL, LARGE = bounds((1, 2), (1, 8), (4, 16)), bounds((2, 2), (16, 8), (32, 16))


def make_inputs(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, 50, (batch, length))
    mask = np.ones_like(ids)
    mask[:, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def run_onnx(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)[0]


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def flavour(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, request.param, make_flavour(request.param))
    return request.param


@pytest.fixture
def engine_dir(tmp_path: Path, flavour: str) -> Path:
    return write_fake_engine(tmp_path / "engine", make_encoder(), [SMALL, LARGE], flavour)


def test_runs_of_several_shapes_equal_the_graph(engine_dir: Path) -> None:
    runner = EngineRunner(engine_dir, device=FakeDevice())
    assert runner.input_names == NAMES and runner.output_names == ("logits",)
    assert runner.dtype("input_ids") == torch.int64 and runner.shape("logits") == (-1, 3)
    for number, (batch, length) in enumerate([(1, 8), (4, 16), (20, 2), (2, 5)]):
        inputs = make_inputs(batch, length, seed=number)
        expected = run_onnx(make_encoder(), inputs)
        np.testing.assert_allclose(runner.run(inputs)["logits"], expected, rtol=1e-6)


def test_the_profile_that_is_tuned_nearest_is_taken(engine_dir: Path) -> None:
    runner = EngineRunner(engine_dir, device=FakeDevice())
    found = []
    for batch in (1, 2, 4, 5, 32):
        runner.run(make_inputs(batch, 8))
        found.append(last_engine().contexts[0].active_optimization_profile)
    assert found == [0, 0, 0, 1, 1]  # 4 rows: 1/4 of those of the second, 4 times the first's
    assert len(last_engine().contexts) == 1, "all runs share a context"


def test_shapes_in_no_profile_are_refused_by_input_and_dimension(engine_dir: Path) -> None:
    runner = EngineRunner(engine_dir, device=FakeDevice())
    expected = (
        r"profile 0: input_ids has 33 in dimension 0, expected 1 to 4, .*"
        r"profile 1: input_ids has 33 in dimension 0, expected 2 to 32"
    )
    with pytest.raises(NirvanaError, match=expected):
        runner.run(make_inputs(33, 8))


def test_bound_calls_have_contexts_and_buffers_of_their_own(engine_dir: Path) -> None:
    runner = EngineRunner(engine_dir, device=FakeDevice())
    inputs = [make_inputs(1, 8), make_inputs(20, 4)]
    calls = [runner.bind(each) for each in inputs]
    for _ in range(2):  # in turns
        for call, given in zip(calls, inputs, strict=True):
            expected = run_onnx(make_encoder(), given)
            np.testing.assert_allclose(call()["logits"].numpy(), expected, rtol=1e-6)


def test_a_call_waits_for_what_it_queued(engine_dir: Path) -> None:
    device = FakeDevice()
    bound = EngineRunner(engine_dir, device=device).bind(make_inputs(1, 8))
    expected = bound()["logits"].clone()
    bound._from_host["input_ids"].zero_()
    bound.enqueue()
    torch.testing.assert_close(bound.on_device["logits"], expected, rtol=0, atol=0)
    device.synchronize()
    assert not torch.equal(bound.on_device["logits"], expected)


def test_parts_are_told_apart_as_trtexec_does(engine_dir: Path) -> None:
    bound = EngineRunner(engine_dir, device=FakeDevice()).bind(make_inputs(1, 8))
    bound()
    parts = bound.read_parts()
    assert parts.pop("enqueue_ms") > 0
    assert parts == {"h2d_ms": 0.5, "gpu_compute_ms": 2.0, "d2h_ms": 0.25}


def test_what_is_resident_is_not_copied_by_a_call(engine_dir: Path) -> None:
    resident = frozenset({"attention_mask", "logits"})
    inputs = make_inputs(1, 8)
    bound = EngineRunner(engine_dir, device=FakeDevice()).bind(inputs, resident=resident)
    assert bound() == {}
    parts = bound.read_parts()
    assert (parts["h2d_ms"], parts["d2h_ms"]) == (0.25, 0.0)
    expected = run_onnx(make_encoder(), inputs)
    np.testing.assert_allclose(bound.on_device["logits"].numpy(), expected, rtol=1e-6)


def test_a_cuda_graph_is_recorded_after_a_first_run(engine_dir: Path, flavour: str) -> None:
    device = FakeDevice()
    bound = EngineRunner(engine_dir, device=device, cuda_graph=True).bind(make_inputs(1, 8))
    context = last_engine().contexts[-1]
    if flavour == "tensorrt_rtx":  # it records by itself
        assert device.num_captures == 0 and context.config.cuda_graph_strategy == "WHOLE"
    else:
        assert device.num_captures == 1 and context.config is None
        num_runs = context.num_runs
        bound()
        assert context.num_runs == num_runs, "a graph is launched without TensorRT"
        assert bound.read_parts()["gpu_compute_ms"] == 1.5
    bound._from_host["input_ids"].fill_(1)
    inputs = {**make_inputs(1, 8), "input_ids": np.ones((1, 8), np.int64)}
    expected = run_onnx(make_encoder(), inputs)
    np.testing.assert_allclose(bound()["logits"].numpy(), expected, rtol=1e-6)


def test_inputs_are_held_against_the_engine(engine_dir: Path) -> None:
    runner = EngineRunner(engine_dir, device=FakeDevice())
    inputs = make_inputs(1, 8)
    with pytest.raises(NirvanaError, match=r"Missing: attention_mask; not known: mask\."):
        runner.run({"input_ids": inputs["input_ids"], "mask": inputs["attention_mask"]})
    with pytest.raises(NirvanaError, match=r"input_ids \(int64 \[-1, -1\]\), got 1 dimensions"):
        runner.run({**inputs, "input_ids": np.arange(8)})
    with pytest.raises(NirvanaError, match="got float32 with values that it does not hold"):
        runner.run({**inputs, "input_ids": inputs["input_ids"].astype(np.float32)})
    narrow = {name: array.astype(np.int32) for name, array in inputs.items()}
    np.testing.assert_array_equal(runner.run(narrow)["logits"], runner.run(inputs)["logits"])


def test_a_device_that_is_lost_is_an_error(engine_dir: Path) -> None:
    bound = EngineRunner(engine_dir, device=FakeDevice()).bind(make_inputs(1, 8))
    last_engine().contexts[-1].fail_from = 2
    bound()
    with pytest.raises(NirvanaError, match=r"it did not start \(CUDA error 719: the device"):
        bound()


def test_a_corrupt_plan_is_refused_with_the_reason(tmp_path: Path, flavour: str) -> None:
    magic = fake_tensorrt.MAGIC
    try:
        fake_tensorrt.MAGIC = b"other\n"
        folder = write_fake_engine(tmp_path / "engine", make_encoder(), [SMALL], flavour)
    finally:
        fake_tensorrt.MAGIC = magic
    with pytest.raises(NirvanaError, match=r"cannot load .* built by 1\.7\.1: magicTag"):
        EngineRunner(folder, device=FakeDevice())


def test_it_is_verified_like_any_other_form(
    engine_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_gpu(monkeypatch)
    onnx.save(make_encoder(), tmp_path / "model.onnx")
    equal = compare_artefacts(*open_pair(str(tmp_path / "model.onnx"), str(engine_dir)))
    assert equal.passed and {case.case.corner for case in equal.cases} >= {"min", "opt", "max"}
    onnx.save(make_encoder(seed=1), tmp_path / "other.onnx")
    other = compare_artefacts(*open_pair(str(tmp_path / "other.onnx"), str(engine_dir)))
    assert not other.passed


CACHE = "past_key_values.0.key"


@pytest.fixture
def decoder_dir(tmp_path: Path, flavour: str) -> Path:
    lengths = {"input_ids": (1, 1, 8), "attention_mask": (1, 6, 16), CACHE: (0, 5, 8)}
    profile = {name: tuple((2, length) for length in of) for name, of in lengths.items()}
    profile[CACHE] = tuple((2, 1, length, 1) for length in lengths[CACHE])
    model = onnx.load(save_decoder(tmp_path / "model.onnx"))
    return write_fake_engine(tmp_path / "engine", model, [profile], flavour)


@pytest.mark.parametrize("num_past", [0, 3], ids=["empty cache", "cache"])
def test_a_decoder_steps_from_its_cache(decoder_dir: Path, num_past: int) -> None:
    """An empty cache has an address too, which TensorRT demands."""
    runner = EngineRunner(decoder_dir, device=FakeDevice())
    inputs = {
        "input_ids": np.array([[3, 4], [5, 6]]),
        "attention_mask": np.ones((2, num_past + 2), np.int64),
        CACHE: np.full((2, 1, num_past, 1), 7.0, np.float32),
    }
    found = runner.run(inputs)
    assert found["logits"][:, 0].argmax(-1).tolist() == [7 + 7 * num_past, 11 + 7 * num_past]
    assert found["present.0.key"].shape == (2, 1, num_past + 2, 1)


def test_an_output_in_the_place_of_an_input_is_bound_there(
    tmp_path: Path, flavour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As caches are that grow in place: the stand-in refuses another place."""
    monkeypatch.setitem(fake_tensorrt.ALIASES, "y", "x")
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy"]
    node = helper.make_node("Add", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "twice", infos[:1], infos[1:])
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    profile = {"x": ((1, 2), (1, 2), (4, 2))}
    folder = write_fake_engine(tmp_path / "engine", model, [profile], flavour)
    bound = EngineRunner(folder, device=FakeDevice()).bind({"x": np.array([[1.0, 2.0]])})
    assert bound.on_device["y"] is bound.on_device["x"]
    for _ in range(2):  # from the host's values again each time
        assert bound()["y"].tolist() == [[2.0, 4.0]]


@pytest.mark.tensorrt
def test_the_bindings_have_what_is_called() -> None:
    """The stand-in must not know calls that the real bindings lack."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx")
    for fake in (Runtime, Engine, Context):
        real = {Runtime: trt.Runtime, Engine: trt.ICudaEngine, Context: trt.IExecutionContext}[fake]
        called = {name for name in vars(fake) if not name.startswith("_")}
        assert called <= set(dir(real)), fake
    assert hasattr(trt.IExecutionContext, "active_optimization_profile")
    assert {mode.name for mode in TensorIOMode} <= set(trt.TensorIOMode.__members__)
    assert {place.name for place in TensorLocation} <= set(trt.TensorLocation.__members__)
    assert {kind.name for kind in DataType} <= set(trt.DataType.__members__)
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE and trt.IRuntimeConfig.cuda_graph_strategy


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("cuda_graph", [False, True], ids=["plain", "cuda graph"])
def test_a_real_engine_equals_its_graph(tmp_path: Path, cuda_graph: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU, and a flavor that builds for it")
    from exporters.engines.build_engine import build_engine
    from exporters.engines.engine_config import EngineConfig, ShapeRange
    from exporters.engines.engine_flavour import import_flavour, list_capabilities
    from tests.exporters.engines.engine_models import export_bert, make_batch

    trt = import_flavour("auto")
    here = "{}.{}".format(*torch.cuda.get_device_capability())
    listed = list_capabilities(trt)
    if listed and here not in listed:
        pytest.skip(f"{trt.__name__} builds for {', '.join(listed)}, this GPU is {here}")
    config = EngineConfig(
        precision="fp32",
        compute_capabilities=(here,) if listed else (),
        batch=ShapeRange(min=1, opt=2, max=4),
        length=ShapeRange(min=2, opt=8, max=16),
    )
    path = export_bert(tmp_path / "model.onnx", (4, 2))
    build_engine(path, tmp_path / "engine", config)
    runner = EngineRunner(tmp_path / "engine", cuda_graph=cuda_graph)
    for batch, length in ((1, 4), (3, 16)):
        inputs = {name: tensor.numpy() for name, tensor in make_batch(batch, length).items()}
        expected = run_onnx(onnx.load(path), inputs)
        bound = runner.bind(inputs)
        np.testing.assert_allclose(bound()["logits"].numpy(), expected, atol=1e-4)
        assert bound.read_parts()["gpu_compute_ms"] > 0
        np.testing.assert_allclose(runner.run(inputs)["logits"], expected, atol=1e-4)
