"""Refits on a stand-in for TensorRT: what is checked, called, and written. No engine is loaded."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.engines.engine_graph import hash_structure, load_graph
from exporters.engines.engine_manifest import check_engine, read_engine_manifest
from exporters.engines.refit_engine import refit_engine
from pruning.errors import MissingExtraError, NirvanaError
from tests.exporters.engines.engine_folders import L4, write_engine


def save_linear(path: Path, seed: int, *, width: int = 3, note: str = "") -> Path:
    """Save y = x W, with metadata that another export of the same model may have otherwise."""
    weight = np.random.default_rng(seed).standard_normal((4, width)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product", doc_string=note)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", width))],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a refittable engine of `old.onnx`."""
    model = load_graph(save_linear(tmp_path / "old.onnx", 0))
    write_engine(
        tmp_path / "engine",
        refittable=True,
        flavour="tensorrt",
        version="10.12.0",
        structure_sha256=hash_structure(model),
    )
    return tmp_path / "engine"


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a TensorRT 10 that can refit, on an L4."""
    module = ModuleType("tensorrt")
    calls: list[object] = []

    def note(*call: object, result: object = True) -> object:
        calls.append(call)
        return result

    settings = SimpleNamespace(set_flag=lambda flag: note("flag", flag))
    engine = SimpleNamespace(
        create_serialization_config=lambda: settings,
        serialize_with_config=lambda given: note("serialise", result=memoryview(b"new plan")),
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: note(data, result=engine))
    vars(module).update(
        __version__="10.12.0",
        calls=calls,
        missing=[],
        fits=True,
        ILogger=type("ILogger", (), {"__init__": lambda self: None}),
        Runtime=lambda logger: runtime,
        Refitter=lambda given, logger: SimpleNamespace(
            get_missing_weights=lambda: module.missing,
            refit_cuda_engine=lambda: note("refit"),
        ),
        OnnxParserRefitter=lambda refitter, logger: SimpleNamespace(
            refit_from_file=lambda path: note(path, result=module.fits),
            num_errors=1,
            get_error=lambda index: "w has another shape",
        ),
        SerializationFlag=SimpleNamespace(INCLUDE_REFIT="INCLUDE_REFIT"),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr("exporters.engines.refit_engine.find_gpu", lambda: L4)
    return module


def test_new_weights_make_a_new_folder(trt, folder: Path, tmp_path: Path) -> None:
    source = save_linear(tmp_path / "new.onnx", 1, note="exported on another day")
    result = refit_engine(folder, source, tmp_path / "out")
    assert trt.calls == [
        (b"plan",),
        (str(source),),
        ("refit",),
        ("flag", "INCLUDE_REFIT"),
        ("serialise",),
    ]
    assert (tmp_path / "out" / "model.engine").read_bytes() == b"new plan"
    manifest = check_engine(tmp_path / "out", source)
    assert manifest.result == result
    assert (result.status, result.num_fused_attentions) == ("refitted", 1)
    assert manifest.refitted_from == read_engine_manifest(folder).engine_sha256
    assert manifest.refittable  # and so again
    check_engine(folder)  # the old one stays
    assert (folder / "model.engine").read_bytes() == b"plan"


def test_another_plan_is_refused_before_anything_is_loaded(trt, folder, tmp_path: Path) -> None:
    source = save_linear(tmp_path / "new.onnx", 1, width=2)
    with pytest.raises(NirvanaError, match=r"new\.onnx differs .* in more than its weights"):
        refit_engine(folder, source, tmp_path / "out")
    assert trt.calls == []
    assert not (tmp_path / "out").exists()


def test_an_engine_that_was_not_built_for_it_is_refused(trt, folder: Path, tmp_path: Path) -> None:
    write_engine(folder)
    with pytest.raises(NirvanaError, match="not built to be refitted"):
        refit_engine(folder, tmp_path / "old.onnx", tmp_path / "out")


def test_a_changed_engine_is_not_loaded(trt, folder: Path, tmp_path: Path) -> None:
    (folder / "model.engine").write_bytes(b"other")
    with pytest.raises(NirvanaError, match=r"model\.engine has SHA-256"):
        refit_engine(folder, tmp_path / "old.onnx", tmp_path / "out")
    assert trt.calls == []


def test_another_version_does_not_load_it(trt, folder: Path, tmp_path: Path) -> None:
    trt.__version__ = "10.13.0"
    with pytest.raises(NirvanaError, match=r"built by tensorrt 10\.12\.0, this is 10\.13\.0"):
        refit_engine(folder, tmp_path / "old.onnx", tmp_path / "out")
    assert trt.calls == []


def test_without_a_gpu_it_says_so(monkeypatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("exporters.engines.refit_engine.find_gpu", lambda: None)
    with pytest.raises(NirvanaError, match="an NVIDIA GPU with its driver"):
        refit_engine(folder, tmp_path / "old.onnx", tmp_path / "out")


def test_without_the_flavour_it_names_the_extra(monkeypatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("exporters.engines.refit_engine.find_gpu", lambda: L4)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"nirvana-deploy\[tensorrt\]"):
        refit_engine(folder, tmp_path / "old.onnx", tmp_path / "out")


def test_weights_that_do_not_fit_leave_nothing(trt, folder: Path, tmp_path: Path) -> None:
    trt.missing = ["bias"]
    with pytest.raises(NirvanaError, match="needs further weights: bias"):
        refit_engine(folder, tmp_path / "old.onnx", tmp_path / "out")
    trt.fits = False
    with pytest.raises(NirvanaError, match="do not fit the engine: w has another shape"):
        refit_engine(folder, tmp_path / "old.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
