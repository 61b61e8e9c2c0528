"""Oracles: tritonclient's schema, the ONNX graph itself, and ONNX Runtime for the sample request.

No Triton server runs here: see test_triton_server.py.
"""

import builtins
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nirvana_deploy.serving.onnx_signature import read_signature
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.triton.triton_package import check_triton_repository, package_triton
from nirvana_deploy.serving.triton.triton_schema import load_schema
from pruning.errors import MissingExtraError, NirvanaError

CONFIG = PackageConfig(model_name="tiny")


def is_schema_missing() -> bool:
    try:
        load_schema()
    except MissingExtraError:
        return True
    return False


needs_schema = [
    pytest.mark.triton,
    pytest.mark.skipif(is_schema_missing(), reason="tritonclient[grpc] (extra triton) is missing"),
]


def with_schema(function: Callable[..., None]) -> Callable[..., None]:
    for mark in needs_schema:
        function = mark(function)
    return function


def make_model(batch: int | str = "batch") -> onnx.ModelProto:
    """Return a graph with a row of three logits and a score that is one number a row."""
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.normal(size=(50, 3)).astype(np.float32), "table"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["embedded", "axis"], ["logits"], keepdims=0),
        helper.make_node("ReduceMean", ["mask", "axis"], ["score"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, (batch, "sequence")),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT32, (batch, "sequence")),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, (batch, 3)),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, (batch,)),
    ]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "pruned.onnx"
    path.parent.mkdir()
    onnx.save(make_model(), path)
    return path


@pytest.fixture
def package(onnx_path: Path, tmp_path: Path) -> Path:
    package_triton(onnx_path, tmp_path / "package", CONFIG)
    return tmp_path / "package"


def parse(package: Path) -> Any:
    from google.protobuf import text_format

    path = package / "model_repository" / "tiny" / "config.pbtxt"
    return text_format.Parse(path.read_text(), load_schema().ModelConfig())


def edit(package: Path, old: str, new: str) -> Path:
    """Change the configuration as a person would, and return the repository."""
    path = package / "model_repository" / "tiny" / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return package / "model_repository"


@with_schema
def test_files_are_where_triton_looks_for_them(onnx_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "package"
    result = package_triton(onnx_path, out, CONFIG).to_json()
    assert json.loads(json.dumps(result)) == {
        "folder": "model_repository",
        "models": ["tiny"],
        "files": [
            "README.md",
            "model_repository/tiny/1/model.onnx",
            "model_repository/tiny/config.pbtxt",
            "package.json",
            "request.json",
        ],
        "notes": [],
        "server_check": None,
    }
    served = out / "model_repository" / "tiny" / "1" / "model.onnx"
    assert served.read_bytes() == onnx_path.read_bytes()


@with_schema
def test_configuration_is_the_graph_in_tritons_words(package: Path) -> None:
    schema, message = load_schema(), parse(package)
    assert (message.name, message.backend, message.max_batch_size) == ("tiny", "onnxruntime", 32)
    tensors = [
        (tensor.name, schema.DataType.Name(tensor.data_type), list(tensor.dims))
        for tensor in (*message.input, *message.output)
    ]
    assert tensors == [
        ("input_ids", "TYPE_INT64", [-1]),
        ("attention_mask", "TYPE_INT32", [-1]),
        ("logits", "TYPE_FP32", [3]),
        ("score", "TYPE_FP32", [1]),
    ]
    # One number a row: Triton wants a width, the graph has none.
    score = message.output[1]
    assert score.HasField("reshape") and list(score.reshape.shape) == []
    assert not message.output[0].HasField("reshape")


@with_schema
@pytest.mark.parametrize(
    ("kind", "expected"), [("auto", "KIND_AUTO"), ("cpu", "KIND_CPU"), ("gpu", "KIND_GPU")]
)
def test_batching_and_instances_are_as_asked(
    onnx_path: Path, tmp_path: Path, kind: Any, expected: str
) -> None:
    config = PackageConfig(
        model_name="tiny",
        max_batch_size=16,
        preferred_batch_sizes=(16, 4),
        max_queue_delay_us=250,
        instance_kind=kind,
        instance_count=3,
    )
    package_triton(onnx_path, tmp_path / "package", config)
    message = parse(tmp_path / "package")
    assert message.max_batch_size == 16
    assert list(message.dynamic_batching.preferred_batch_size) == [4, 16]
    assert message.dynamic_batching.max_queue_delay_microseconds == 250
    (group,) = message.instance_group
    assert (group.Kind.Name(group.kind), group.count) == (expected, 3)


@with_schema
def test_no_preferred_sizes_still_batches(onnx_path: Path, tmp_path: Path) -> None:
    package_triton(onnx_path, tmp_path / "package", replace(CONFIG, preferred_batch_sizes=()))
    message = parse(tmp_path / "package")
    assert message.HasField("dynamic_batching")
    assert list(message.dynamic_batching.preferred_batch_size) == []


@with_schema
def test_external_data_comes_along(tmp_path: Path) -> None:
    source = tmp_path / "source" / "pruned.onnx"
    source.parent.mkdir()
    onnx.save(
        make_model(),
        source,
        save_as_external_data=True,
        location="pruned.onnx.data",
        size_threshold=100,
    )
    result = package_triton(source, tmp_path / "package", CONFIG)
    assert "model_repository/tiny/1/pruned.onnx.data" in result.files
    served = tmp_path / "package" / "model_repository" / "tiny" / "1" / "model.onnx"
    inputs = {"input_ids": [[3, 4]], "attention_mask": [[1, 1]]}
    logits = run(served, inputs)[0]
    np.testing.assert_array_equal(logits, run(source, inputs)[0])
    served.with_name("pruned.onnx.data").unlink()
    with pytest.raises(NirvanaError, match=r"pruned\.onnx\.data is missing: model\.onnx keeps"):
        check_triton_repository(tmp_path / "package" / "model_repository")


def run(path: Path, inputs: dict[str, Any]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    types = {"input_ids": np.int64, "attention_mask": np.int32}
    feeds = {name: np.array(value, types[name]) for name, value in inputs.items()}
    return session.run(None, feeds)


@with_schema
def test_readme_serves_this_folder_and_its_request_runs(package: Path) -> None:
    readme = (package / "README.md").read_text()
    (shown,) = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
    request = json.loads((package / "request.json").read_text())
    assert json.loads(shown) == request
    assert "$PWD/model_repository:/models" in readme
    assert "`logits` (FP32, 3 values a row), `score` (FP32, one value a row)" in readme
    assert "/v2/models/tiny/infer" in readme and "-d @request.json" in readme

    inputs = {row["name"]: np.reshape(row["data"], row["shape"]) for row in request["inputs"]}
    types = {row["name"]: row["datatype"] for row in request["inputs"]}
    assert types == {"input_ids": "INT64", "attention_mask": "INT32"}
    served = package / "model_repository" / "tiny" / "1" / "model.onnx"
    logits, score = run(served, inputs)
    assert logits.shape == (1, 3) and np.isfinite(logits).all()
    assert score.tolist() == [1.0]


@with_schema
def test_readme_asks_for_gpus_only_where_they_are_needed(onnx_path: Path, tmp_path: Path) -> None:
    package_triton(onnx_path, tmp_path / "cpu", replace(CONFIG, instance_kind="cpu"))
    package_triton(onnx_path, tmp_path / "gpu", replace(CONFIG, instance_kind="gpu"))
    command = re.compile(r"docker run --rm --gpus all ")
    assert not command.search((tmp_path / "cpu" / "README.md").read_text())
    text = (tmp_path / "gpu" / "README.md").read_text()
    assert command.search(text)
    assert re.findall(r"-p (\S+)", text) == [f"127.0.0.1:{n}:{n}" for n in (8000, 8001, 8002)]


@with_schema
def test_a_sound_repository_passes(package: Path) -> None:
    assert check_triton_repository(package / "model_repository") == ("tiny",)


@with_schema
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "max_batch_size",
            "max_batch_sze",
            'not a model configuration.*no field named "max_batch_sze',
        ),
        ("TYPE_INT64", "TYPE_INT46", "not a model configuration.*TYPE_INT46"),
        (
            "TYPE_INT64",
            "TYPE_INT32",
            "input input_ids has data_type TYPE_INT32; .* it is TYPE_INT64",
        ),
        ("dims: 3", "dims: 4", r"output logits has dims \[4\]; the ONNX graph needs dims \[3\]"),
        ("dims: -1", "dims: 16", r"input input_ids has dims \[16\]; .* needs dims \[-1\]"),
        ("dims: 3", "dims: -1 dims: 3", r"output logits has dims \[-1, 3\]; .* dims \[3\]"),
        (
            'name: "logits"',
            'name: "scores"',
            "lists the outputs scores, score; .* has logits, score",
        ),
        ("reshape {\n  }", "", r"output score has dims \[1\]; .* needs dims \[1\], reshape \[\]"),
        ('name: "tiny"', 'name: "small"', "names the model 'small', its folder 'tiny'"),
        ('backend: "onnxruntime"', 'backend: "openvino"', "has backend 'openvino' and platform ''"),
        ("max_batch_size: 32", "max_batch_size: 0", "has max_batch_size 0; .* expected 1 or more"),
        ("max_batch_size: 32", "max_batch_size: 8", r"has preferred_batch_size 16; .* \(8\)"),
    ],
)
def test_a_wrong_configuration_is_refused(package: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(NirvanaError, match=rf"(?s)config\.pbtxt.*{message}"):
        check_triton_repository(edit(package, old, new))


@with_schema
def test_the_older_platform_name_is_taken_too(package: Path) -> None:
    repository = edit(package, 'backend: "onnxruntime"', 'platform: "onnxruntime_onnx"')
    assert check_triton_repository(repository) == ("tiny",)


@with_schema
def test_every_version_is_checked(package: Path) -> None:
    (package / "model_repository" / "tiny" / "2").mkdir()
    with pytest.raises(NirvanaError, match=r"2/model\.onnx is missing: expected an ONNX file"):
        check_triton_repository(package / "model_repository")


@with_schema
@pytest.mark.parametrize("name", ["v1", "0", "01"])
def test_a_folder_that_is_no_version_does_not_count(package: Path, name: str) -> None:
    model_dir = package / "model_repository" / "tiny"
    (model_dir / "1").rename(model_dir / name)
    with pytest.raises(NirvanaError, match="tiny holds no version: expected a folder named by"):
        check_triton_repository(package / "model_repository")


@with_schema
def test_a_missing_model_configuration_or_repository_is_named(package: Path) -> None:
    repository = package / "model_repository"
    (repository / "tiny" / "1" / "model.onnx").unlink()
    with pytest.raises(NirvanaError, match=r"model\.onnx is missing: expected an ONNX file"):
        check_triton_repository(repository)
    (repository / "tiny" / "config.pbtxt").unlink()
    with pytest.raises(NirvanaError, match=r"config\.pbtxt is missing: each folder"):
        check_triton_repository(repository)
    with pytest.raises(NirvanaError, match="nothing is missing: expected the folder of a model"):
        check_triton_repository(package / "nothing")
    (package / "empty").mkdir()
    with pytest.raises(NirvanaError, match="empty holds no model: expected a folder for each"):
        check_triton_repository(package / "empty")


@with_schema
def test_a_used_folder_is_refused_and_left_alone(onnx_path: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    with pytest.raises(NirvanaError, match="mine holds something already"):
        package_triton(onnx_path, tmp_path / "mine", CONFIG)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_missing_onnx_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"nothing\.onnx is missing: expected an ONNX file"):
        package_triton(tmp_path / "nothing.onnx", tmp_path / "package", CONFIG)
    with pytest.raises(NirvanaError, match=r"is a folder: expected an ONNX file, such as .*\.onnx"):
        package_triton(tmp_path, tmp_path / "package", CONFIG)
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize("content", [b"", b"not a graph", None], ids=["empty", "text", "cut off"])
def test_a_corrupt_onnx_file_is_refused(
    tmp_path: Path, onnx_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(onnx_path.read_bytes()[:300] if content is None else content)
    with pytest.raises(NirvanaError, match=r"broken\.onnx is not a valid ONNX file"):
        package_triton(path, tmp_path / "package", CONFIG)
    assert not (tmp_path / "package").exists()


def test_a_graph_with_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    onnx.save(make_model(batch=4), tmp_path / "fixed.onnx")
    with pytest.raises(NirvanaError, match=r"input_ids has shape \[4, -1\].* dynamic batch"):
        package_triton(tmp_path / "fixed.onnx", tmp_path / "package", CONFIG)


def test_data_outside_the_models_folder_is_refused(tmp_path: Path) -> None:
    model = make_model()
    table = model.graph.initializer[0]
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value="../secret")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        NirvanaError, match=r"data of .* in '\.\./secret.*', outside of the file's folder"
    ):
        read_signature(tmp_path / "model.onnx")


def test_a_type_that_triton_lacks_is_refused(tmp_path: Path) -> None:
    model = make_model()
    kind = TensorProto.COMPLEX64
    model.graph.input.append(helper.make_tensor_value_info("waves", kind, ("batch",)))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(
        NirvanaError, match="waves is of type COMPLEX64, which Triton does not know"
    ):
        read_signature(tmp_path / "model.onnx")


def test_weights_that_are_listed_as_inputs_are_none(tmp_path: Path) -> None:
    model = make_model()
    model.graph.input.append(helper.make_tensor_value_info("table", TensorProto.FLOAT, (50, 3)))
    onnx.save(model, tmp_path / "model.onnx")
    names = [tensor.name for tensor in read_signature(tmp_path / "model.onnx").inputs]
    assert names == ["input_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("tritonclient"), "^tritonclient is not installed"),
        (RuntimeError("does not include grpc support"), "^The gRPC part of tritonclient is not"),
    ],
    ids=["no client", "no grpc"],
)
def test_without_tritonclient_the_extra_is_named_and_nothing_is_written(
    onnx_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    really_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("tritonclient"):
            raise error
        return really_import(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("tritonclient")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=rf"{message}.*'nirvana-deploy\[triton\]'"):
        package_triton(onnx_path, tmp_path / "package", CONFIG)
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"model_name": name}, "^model_name must be a folder name of letters")
            for name in ("", "a/b", "..", ".hidden", "-v", "two words", "name\n")
        ),
        ({"max_batch_size": 0}, "^max_batch_size must be 1 or more, got 0"),
        ({"instance_count": 0}, "^instance_count must be 1 or more, got 0"),
        ({"max_queue_delay_us": -1}, "^max_queue_delay_us must be 0 or more, got -1"),
        (
            {"max_batch_size": 8},
            r"^preferred_batch_sizes must be from 1 to max_batch_size \(8\), got 8, 16, 32",
        ),
        ({"to": "torchserve"}, "^to must be one of triton.*, got 'torchserve'"),
        ({"backend": "pytorch"}, "^backend must be one of onnxruntime, python, got 'pytorch'"),
        ({"instance_kind": "tpu"}, "^instance_kind must be one of auto, cpu, gpu, got 'tpu'"),
    ],
)
def test_a_package_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        PackageConfig(**settings)


@pytest.mark.parametrize("name", ["minilm_pruned", "all-MiniLM-L6-v2", "v1.2", "_x", "7b"])
def test_usual_model_names_are_taken(name: str) -> None:
    assert PackageConfig(model_name=name).model_name == name
