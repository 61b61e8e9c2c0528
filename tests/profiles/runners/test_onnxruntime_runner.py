"""Oracle: a plain ONNX Runtime session on the same file."""

import builtins
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from profiles.runners.token_inputs import make_token_inputs
from pruning.errors import MissingExtraError, NirvanaError
from tests.profiles.fake_runners import VOCAB, make_encoder, save_encoder


def make_inputs(runner: OnnxRuntimeRunner, batch: int = 3, length: int = 5) -> dict[str, Any]:
    made = make_token_inputs(runner.inputs, batch=batch, length=length, vocab_size=VOCAB, seed=0)
    return dict(made)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_outputs_are_those_of_a_plain_session(encoder: Path) -> None:
    runner = OnnxRuntimeRunner(encoder, num_threads=1)
    plain = onnxruntime.InferenceSession(str(encoder), providers=["CPUExecutionProvider"])
    for batch, length in ((1, 4), (3, 7)):
        inputs = make_inputs(runner, batch, length)
        inputs["attention_mask"][:, -2:] = 0
        outputs = runner.bind(inputs)()
        assert list(outputs) == ["logits"]
        np.testing.assert_array_equal(outputs["logits"], plain.run(["logits"], inputs)[0])


def test_outputs_are_written_into_bound_buffers(encoder: Path) -> None:
    runner = OnnxRuntimeRunner(encoder, num_threads=1)
    inputs = make_inputs(runner)
    run = runner.bind(inputs)
    buffer = run()["logits"]
    expected = buffer.copy()
    buffer[:] = np.nan
    assert run()["logits"] is buffer
    np.testing.assert_array_equal(buffer, expected)


def test_bound_calls_do_not_mix(encoder: Path) -> None:
    """The arrays are dropped by the caller: the call alone keeps what the binding points to."""
    runner = OnnxRuntimeRunner(encoder, num_threads=1)
    calls = [runner.bind(make_inputs(runner, batch, 4)) for batch in (1, 2, 3)]
    first = [call()["logits"].copy() for call in calls]
    for call, expected in zip(reversed(calls), reversed(first), strict=True):
        np.testing.assert_array_equal(call()["logits"], expected)


def test_inputs_are_read_from_the_graph(encoder: Path) -> None:
    specs = OnnxRuntimeRunner(encoder).inputs
    assert [spec.name for spec in specs] == ["input_ids", "attention_mask"]
    assert {spec.dtype for spec in specs} == {np.dtype(np.int64)}
    assert specs[0].shape == ("batch", "sequence")


def test_threads_are_the_allowed_cpus(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OnnxRuntimeRunner(encoder).describe()["num_threads"] == len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4})
    runner = OnnxRuntimeRunner(encoder)
    assert runner.describe()["num_threads"] == 1
    assert runner._session.get_session_options().intra_op_num_threads == 1


def test_threads_do_not_spin_after_a_run(encoder: Path) -> None:
    options = OnnxRuntimeRunner(encoder)._session.get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_external_data_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        make_encoder(),
        path,
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=100,
    )
    runner = OnnxRuntimeRunner(path)
    assert np.isfinite(runner.bind(make_inputs(runner))()["logits"]).all()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"nothing\.onnx is missing: expected an ONNX file"):
        OnnxRuntimeRunner(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("content", [b"", b"not a graph", None], ids=["empty", "text", "cut off"])
def test_a_corrupt_file_is_refused(tmp_path: Path, encoder: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(encoder.read_bytes()[:200] if content is None else content)
    with pytest.raises(NirvanaError, match=r"broken\.onnx cannot be loaded by .* Export it again"):
        OnnxRuntimeRunner(path)


def test_inputs_that_the_model_cannot_run_are_named(encoder: Path) -> None:
    runner = OnnxRuntimeRunner(encoder)
    inputs = make_inputs(runner)
    inputs["input_ids"][0, 0] = VOCAB
    with pytest.raises(NirvanaError, match=r"cannot run .* on input_ids \[3, 5\].* vocab_size"):
        runner.bind(inputs)


def test_an_input_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = make_encoder()
    extra = onnx.helper.make_tensor_value_info("words", onnx.TensorProto.STRING, ("batch",))
    model.graph.input.append(extra)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(NirvanaError, match=r"'words' is of type tensor\(string\); known types"):
        OnnxRuntimeRunner(tmp_path / "model.onnx")


def test_without_onnx_runtime_the_extra_is_named(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError(name)
        return really_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"ONNX Runtime .*'nirvana-deploy\[cpu\]'"):
        OnnxRuntimeRunner(encoder)


def test_a_provider_that_is_not_there_is_refused(encoder: Path) -> None:
    with pytest.raises(NirvanaError, match=r"no provider 'cuda' here; it has .*CPUExecution"):
        OnnxRuntimeRunner(encoder, provider="cuda")


def test_a_provider_is_never_swapped_in_silence(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime lists a provider whose libraries are missing, and then runs on the CPU."""
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    real = onnxruntime.InferenceSession

    def fall_back(path: str, options: Any, providers: Any) -> Any:
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(NirvanaError, match=r"CUDAExecutionProvider was asked, .* took CPU"):
        OnnxRuntimeRunner(encoder, provider="cuda")


def test_the_full_name_of_a_provider_and_its_options_are_told(encoder: Path) -> None:
    options = {"use_arena": "0"}
    runner = OnnxRuntimeRunner(encoder, provider="CPUExecutionProvider", provider_options=options)
    assert runner.describe()["provider"] == "CPUExecutionProvider"
    assert runner.describe()["provider_options"] == options


def test_the_run_times_own_profiler_sees_the_same_runs(encoder: Path, tmp_path: Path) -> None:
    runner = OnnxRuntimeRunner(encoder, num_threads=1, profile_prefix=tmp_path / "ort")
    run = runner.bind(make_inputs(runner))
    for _ in range(3):
        run()
    events = json.loads(runner.end_profiling().read_text())
    assert sum(event["name"] == "model_run" for event in events) == 4  # the first one included
