"""Providers, their options and their caches; GPUs' are stood in for by the CPU's sessions."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest

from profiles.measuring.measure_config import ProfileConfig
from profiles.runners.execution_providers import EXECUTION_PROVIDERS, find_provider, parse_options
from profiles.runners.onnx_session import SessionSettings, open_measured_session
from profiles.runners.onnxruntime_runner import OnnxRuntimeRunner
from profiles.runners.open_runner import open_runner
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import make_encoder, save_encoder

REAL_SESSION, REAL_OPTIONS = onnxruntime.InferenceSession, onnxruntime.SessionOptions
CONTEXT = "ep.context_file_path"


class Machine:
    """A machine whose ONNX Runtime has one more provider, and what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *, built_in: bool) -> None:
        self.loaded: list[str] = []
        self.options: list[dict[str, str]] = []
        self.devices: list[Any] = []
        self.registered: list[tuple[str, str]] = []
        there = [name, "CPUExecutionProvider"] if built_in else ["CPUExecutionProvider"]
        machine = self

        class Options:
            """What is set on it is kept, and read back as ONNX Runtime's is."""

            def __init__(self) -> None:
                self.entries: dict[str, str] = {}

            def add_session_config_entry(self, key: str, value: str) -> None:
                self.entries[key] = value

            def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
                assert devices == machine.devices[:1]
                machine.options.append(options)

        class Session:
            def __init__(self, path: str, options: Options, providers: Any = None) -> None:
                if providers is not None:
                    machine.options.append(providers[0][1])
                machine.loaded.append(path)
                self._real = REAL_SESSION(path)
                if CONTEXT in options.entries:  # as the provider writes what it compiled
                    onnx.save(onnx.load(path), options.entries[CONTEXT])

            def get_providers(self) -> list[str]:
                return [name, "CPUExecutionProvider"]

            def __getattr__(self, attribute: str) -> Any:
                return getattr(self._real, attribute)

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
        monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: self.devices)

    def add_plugin(self, monkeypatch: pytest.MonkeyPatch, *, has_gpu: bool) -> None:
        name = find_provider("tensorrt-rtx").name
        plugin = SimpleNamespace(get_ep_name=lambda: name, get_library_path=lambda: "lib.so")
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", plugin)

        def register(registered: str, library: str) -> None:
            self.registered.append((registered, library))
            self.devices += [SimpleNamespace(ep_name=registered)] * has_gpu

        monkeypatch.setattr(onnxruntime, "register_execution_provider_library", register)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_tensorrt_keeps_engines_timings_and_a_compiled_model(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, "TensorrtExecutionProvider", built_in=True)
    settings = SessionSettings(
        num_threads=1,
        provider="tensorrt",
        options={"trt_fp16_enable": "1", "trt_timing_cache_path": "elsewhere"},
        cache_dir=tmp_path / "cache",
    )
    open_measured_session(encoder, settings)
    assert machine.options[0] == {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path / "cache"),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "elsewhere",  # what is asked for goes before
        "trt_fp16_enable": "1",
    }
    (kept,) = (tmp_path / "cache").iterdir()
    assert [file.name for file in kept.iterdir()] == ["model_ctx.onnx"]
    open_measured_session(encoder, settings)
    assert machine.loaded == [str(encoder), str(kept / "model_ctx.onnx")]


def test_another_graph_or_option_is_compiled_anew(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, "TensorrtExecutionProvider", built_in=True)
    path = tmp_path / "model.onnx"
    external = {"save_as_external_data": True, "location": "weights", "size_threshold": 100}

    def load(**options: str) -> str:
        settings = SessionSettings(
            num_threads=1, provider="tensorrt", options=options, cache_dir=tmp_path / "cache"
        )
        open_measured_session(path, settings)
        return machine.loaded[-1]

    onnx.save(make_encoder(), path, **external)
    assert load() == str(path) and load() != str(path)
    assert load(trt_fp16_enable="1") == str(path)
    data = bytearray((tmp_path / "weights").read_bytes())
    data[-1] ^= 1  # the graph's own file stays as it is
    (tmp_path / "weights").write_bytes(data)
    assert load() == str(path) and load() != str(path)


def test_the_plugin_of_tensorrt_rtx_is_registered_once(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, "NvTensorRTRTXExecutionProvider", built_in=False)
    machine.add_plugin(monkeypatch, has_gpu=True)
    config = ProfileConfig(
        provider="tensorrt-rtx",
        provider_options=("enable_cuda_graph=1",),
        provider_cache=str(tmp_path / "cache"),
    )
    for _ in range(2):
        runner = open_runner(str(encoder), name="model", config=config)
    assert machine.registered == [("NvTensorRTRTXExecutionProvider", "lib.so")]
    cache = str(tmp_path / "cache")
    assert machine.options[-1] == {"nv_runtime_cache_path": cache, "enable_cuda_graph": "1"}
    described = runner.describe()
    assert described["provider"] == "NvTensorRTRTXExecutionProvider"
    assert described["provider_cache"] == cache and "gpu" in described


def test_a_plugin_that_finds_no_gpu_says_so(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, "NvTensorRTRTXExecutionProvider", built_in=False)
    machine.add_plugin(monkeypatch, has_gpu=False)
    with pytest.raises(NirvanaError, match="is installed, and finds no GPU here"):
        OnnxRuntimeRunner(encoder, provider="tensorrt-rtx")


@pytest.mark.parametrize(
    ("short", "package"),
    [
        ("cuda", r"nirvana-deploy\[cuda\]"),
        ("tensorrt", r"nirvana-deploy\[cuda,tensorrt\]"),
        ("tensorrt-rtx", "pip install onnxruntime-ep-nv-tensorrt-rtx"),
    ],
)
def test_a_provider_that_is_not_installed_names_its_package(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, short: str, package: str
) -> None:
    Machine(monkeypatch, "OtherExecutionProvider", built_in=True)
    with pytest.raises(NirvanaError, match=rf"has no provider '{short}' here; .*{package}"):
        OnnxRuntimeRunner(encoder, provider=short)


@pytest.mark.parametrize("provider", EXECUTION_PROVIDERS, ids=lambda p: p.short)
def test_an_option_that_a_provider_lacks_is_refused(encoder: Path, provider) -> None:
    near = sorted(provider.options)[0]
    expected = rf"{provider.name} has no option '{near}s'\. Did you mean {near}\?"
    with pytest.raises(NirvanaError, match=expected):
        OnnxRuntimeRunner(encoder, provider=provider.short, provider_options={f"{near}s": "1"})


def test_options_of_one_provider_are_not_anothers() -> None:
    for provider in EXECUTION_PROVIDERS:
        provider.check_options(provider.cache_options)
        assert find_provider(provider.name) is provider


def test_what_has_no_cache_is_refused_one(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"CPU.* could be kept.* tensorrt, tensorrt-rtx"):
        OnnxRuntimeRunner(encoder, provider_cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_settings_are_written_as_name_and_value() -> None:
    assert parse_options(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for bad in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(NirvanaError, match="written name=value, each name once"):
            parse_options(bad)


def test_an_unknown_provider_gets_the_list() -> None:
    with pytest.raises(NirvanaError, match="no provider 'gpu'; expected one of cpu, cuda,"):
        find_provider("gpu")
