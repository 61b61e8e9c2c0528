"""Oracle: ONNX Runtime on the same file."""

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from nirvana_deploy import ExportConfig, ProfileConfig, export, profile
from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from profiles.runners.open_runner import open_runner
from profiles.runners.openvino_runner import OpenVinoRunner
from profiles.runners.token_inputs import make_token_inputs
from pruning.checkpoints.checkpoint import save_pruned
from pruning.cutting.repack import repack
from pruning.errors import MissingExtraError, NirvanaError
from tests.profiles.fake_runners import VOCAB, save_encoder
from tests.pruning.tiny_models import dropping_plan, make_tiny, uneven_plan

pytest.importorskip("openvino", reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("onnx") / "model.onnx")


def draw(runner: Any, batch: int, length: int, past: int = 0) -> dict[str, Any]:
    sizes = {"batch": batch, "length": length, "past": past, "vocab_size": VOCAB, "seed": 0}
    return dict(make_token_inputs(runner.inputs, **sizes))


def test_outputs_are_those_of_onnx_runtime(encoder: Path) -> None:
    ours, other = OpenVinoRunner(encoder, num_threads=1), OnnxRuntimeRunner(encoder, num_threads=1)
    assert [spec.name for spec in ours.inputs] == [spec.name for spec in other.inputs]
    assert [spec.dtype for spec in ours.inputs] == [spec.dtype for spec in other.inputs]
    calls = []
    for batch, length in ((1, 4), (3, 7)):
        inputs = draw(other, batch, length)
        inputs["attention_mask"][:, -2:] = 0
        calls.append((ours.bind(inputs), other.bind(inputs)()))
    for call, expected in [*calls, *reversed(calls)]:  # bound calls do not mix
        found = call()
        assert list(found) == list(expected)
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "make_plan"), [("bert", dropping_plan), ("llama", uneven_plan)])
def test_pruned_exports_run(name: str, make_plan: Any, tmp_path: Path) -> None:
    """Layers without heads or neurons; layers of different sizes, with their cache."""
    model = make_tiny(name)
    save_pruned(repack(model, make_plan(model)), tmp_path / "small")
    graph = export(tmp_path / "small", ExportConfig(), out=tmp_path / "onnx").onnx
    ours, other = OpenVinoRunner(graph), OnnxRuntimeRunner(graph)
    for past in (0, 3) if name == "llama" else (0,):
        inputs = draw(other, 2, 5, past)
        found, expected = ours.bind(inputs)(), other.bind(inputs)()
        for output, array in expected.items():
            np.testing.assert_allclose(found[output], array, atol=2e-5, rtol=1e-3)


def test_a_precision_runs_as_it_is_asked_or_is_refused(encoder: Path) -> None:
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    expected = OnnxRuntimeRunner(encoder).bind(draw(OnnxRuntimeRunner(encoder), 2, 6))()["logits"]
    for precision, told in (("f32", "FP32"), ("bf16", "BF16"), ("f16", "FP16")):
        if told not in able:
            with pytest.raises(NirvanaError, match=f"does not compute in {precision}; .* f32"):
                OpenVinoRunner(encoder, precision=precision)
            continue
        runner = OpenVinoRunner(encoder, precision=precision)
        found = runner.bind(draw(runner, 2, 6))()["logits"]
        np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())
        assert runner.describe()["precision"] == precision


def test_a_graph_of_nan_has_no_speed(encoder: Path, tmp_path: Path) -> None:
    graph = onnx.load(encoder)
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.full(tuple(tensor.dims), np.nan, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(graph, tmp_path / "nan.onnx")
    runner = OpenVinoRunner(tmp_path / "nan.onnx")
    with pytest.raises(NirvanaError, match="gives NaN or infinity in logits by OpenVINO in f32"):
        runner.bind(draw(runner, 1, 4))


def test_what_it_cannot_run_is_said(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    with pytest.raises(NirvanaError, match=r"OpenVINO does not take .*no\.onnx: "):
        OpenVinoRunner(tmp_path / "no.onnx")
    with pytest.raises(NirvanaError, match=r"none\.onnx is missing"):
        OpenVinoRunner(tmp_path / "none.onnx")
    runner = OpenVinoRunner(encoder)
    inputs = draw(runner, 1, 4)
    inputs["attention_mask"] = inputs["attention_mask"][:, :3]
    with pytest.raises(NirvanaError, match=r"OpenVINO cannot run .* on input_ids \[1, 4\]"):
        runner.bind(inputs)


def test_without_openvino_the_extra_is_named(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "openvino":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "openvino")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"OpenVINO .*nirvana-deploy\[openvino\]"):
        OpenVinoRunner(encoder)


def test_a_profile_runs_onnx_by_openvino(encoder: Path) -> None:
    config = ProfileConfig(
        onnx_runtime="openvino", length=8, batch_sizes=(1,), min_samples=2, min_seconds=0
    )
    assert open_runner(str(encoder), name="a", config=config).describe()["runtime"] == "OpenVINO"
    result = profile(encoder, encoder, config)
    assert result.method["runtime"] == "OpenVINO"  # of both: they are run alike


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"onnx_runtime": "tvm"}, "onnx_runtime must be one of onnxruntime, openvino, got 'tvm'"),
        ({"onnx_runtime": "openvino", "provider": "cuda"}, "provider cuda is ONNX Runtime's"),
        ({"inference_precision": "bf16"}, "inference_precision bf16 is for OpenVINO"),
        ({"inference_precision": "int4"}, "inference_precision must be one of f32, bf16, f16"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        ProfileConfig(**settings)
