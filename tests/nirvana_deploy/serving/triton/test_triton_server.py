"""The real tritonserver of nvidia-pytriton serves packages; ONNX Runtime says what is right."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.server.protocol_client import get_json
from nirvana_deploy.serving.triton.triton_check import check_with_server
from nirvana_deploy.serving.triton.triton_package import package_triton
from nirvana_deploy.serving.triton.tritonserver import (
    RunningServer,
    find_tritonserver,
    run_tritonserver,
)
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.tiny_classifier import (
    LABELS,
    make_classifier,
    save_checkpoint,
    save_classifier,
    save_engine,
)


def explain_missing_server() -> str:
    try:
        find_tritonserver()
    except NirvanaError as error:
        return str(error)
    return ""


MISSING = explain_missing_server()
pytestmark = [pytest.mark.triton, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

CONFIG = PackageConfig(
    model_name="tiny", backend="python", max_batch_size=8, preferred_batch_sizes=(8,), ab=True
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense and pruned as two versions in the Python backend, and the model that takes text."""
    folder = tmp_path_factory.mktemp("package")
    sources = OnnxSources(
        onnx=save_classifier(folder / "pruned.onnx", seed=1),
        dense=save_classifier(folder / "dense.onnx", seed=0),
        checkpoint=save_checkpoint(folder / "checkpoint"),
    )
    package_triton(sources, folder / "package", CONFIG)
    return folder / "package"


@pytest.fixture(scope="module")
def server(package: Path) -> Iterator[RunningServer]:
    with run_tritonserver(package / "model_repository", find_tritonserver()) as running:
        yield running


def test_it_serves_what_onnx_runtime_gives_and_batches_and_refuses(package: Path) -> None:
    check = check_with_server(package).to_json()
    assert check["models"] == ["tiny", "tiny_label", "tiny_text", "tiny_tokenizer"]
    assert check["stood_in"] == []
    # Two versions, HTTP and gRPC, batches of 1, 3 and 8, two lengths; and five texts.
    assert check["num_answers"] == 2 * 2 * 3 * 2 + 5
    assert check["max_abs_difference"] < 1e-5
    assert check["rows_per_run"] > 1
    assert "batch-size must be <= 8 for 'tiny'" in check["refused"]


@pytest.mark.parametrize("kind", ["onnxruntime", "tensorrt"])
def test_a_backend_that_is_not_here_is_checked_by_a_stand_in(tmp_path: Path, kind: str) -> None:
    onnx_path = save_classifier(tmp_path / "model.onnx")
    engine = save_engine(tmp_path / "engine", onnx_path) if kind == "tensorrt" else None
    config = PackageConfig(model_name="tiny", instance_kind="gpu")
    package_triton(OnnxSources(onnx=onnx_path, engine=engine), tmp_path / "package", config)
    config_text = (tmp_path / "package/model_repository/tiny/config.pbtxt").read_text()
    assert f'backend: "{kind}"' in config_text and "KIND_GPU" in config_text
    assert ('profile: "0"' in config_text) == (kind == "tensorrt")
    check = check_with_server(tmp_path / "package", onnx=onnx_path)
    assert check.stood_in == ("tiny",)
    assert check.max_abs_difference < 1e-5


@pytest.mark.parametrize(("version", "seed"), [("1", 0), ("2", 1), ("", 1)])
def test_dense_and_pruned_are_two_versions_and_the_pruned_one_is_the_default(
    server: RunningServer, version: str, seed: int
) -> None:
    inputs = {
        "input_ids": np.array([[3, 4, 5]], np.int64),
        "attention_mask": np.array([[1, 1, 0]], np.int64),
    }
    session = onnxruntime.InferenceSession(make_classifier(seed).SerializeToString())
    expected = session.run(None, inputs)[0]
    body = {
        "inputs": [
            {"name": name, "shape": [1, 3], "datatype": "INT64", "data": array[0].tolist()}
            for name, array in inputs.items()
        ]
    }
    path = f"/versions/{version}" if version else ""
    answer = get_json(f"{server.url}/v2/models/tiny{path}/infer", body)
    np.testing.assert_allclose(answer["outputs"][0]["data"], expected[0], rtol=1e-6)
    assert answer["model_version"] == (version or "2")


def test_text_in_gives_a_label_out(server: RunningServer) -> None:
    text = {"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": ["the first", "word"]}
    answer = get_json(f"{server.url}/v2/models/tiny_text/infer", {"inputs": [text]})
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert set(outputs["label"]["data"]) <= set(LABELS)
    assert all(1 / 3 < score <= 1 for score in outputs["score"]["data"])


def test_the_readmes_request_is_answered_and_metrics_count_it(
    package: Path, server: RunningServer
) -> None:
    request = json.loads((package / "request.json").read_text())
    assert get_json(f"{server.url}/v2/models/tiny/infer", request)["outputs"][0]["shape"] == [1, 3]
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert b'nv_inference_request_success{model="tiny",version="2"}' in answer.read()


def test_the_rollout_script_compares_the_two_versions(package: Path, server: RunningServer) -> None:
    urls = [f"{server.url}/v2/models/tiny/versions/{version}/infer" for version in (1, 2)]
    command = [sys.executable, "-I", str(package / "compare_endpoints.py"), *urls]
    ended = subprocess.run(
        [*command, str(package / "requests.jsonl"), "--rounds=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    sessions = [
        onnxruntime.InferenceSession(make_classifier(seed).SerializeToString()) for seed in (0, 1)
    ]
    equal = []
    for line in (package / "requests.jsonl").read_text().splitlines():
        feeds = {
            each["name"]: np.array(each["data"], np.int64).reshape(each["shape"])
            for each in json.loads(line)["inputs"]
        }
        one, other = (session.run(None, feeds)[0] for session in sessions)
        equal += (one.argmax(-1) == other.argmax(-1)).tolist()
    assert found["argmax_agreement"]["value"] == pytest.approx(np.mean(equal))
    assert found["requests"] == len(equal) == 32


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"inputs": []}, "expected 2 inputs but got 0"),
        ({"inputs": "none"}, "."),
        (
            {
                "inputs": [
                    {"name": "input_ids", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
                ]
            },
            "expected 2 inputs but got 1|data-type",
        ),
    ],
)
def test_bad_requests_are_refused_and_the_server_stays(
    server: RunningServer, body: object, reason: str
) -> None:
    with pytest.raises(NirvanaError, match=f"The server said: .*{reason}"):
        get_json(f"{server.url}/v2/models/tiny/infer", body)
    urllib.request.urlopen(f"{server.url}/v2/health/ready", timeout=10).close()


def copy(package: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(package, to)
    return to / "model_repository"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "max_batch_size: 8",
            "max_batch_size: 4",
            "dynamic batching preferred size must be <= max",
        ),
        ('name: "tiny"', 'name: "small"', "does not match|model directory"),
    ],
)
def test_what_the_core_refuses_is_told_in_its_words(
    package: Path, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    repository = copy(package, tmp_path / "copy")
    path = repository / "tiny" / "config.pbtxt"
    path.write_text(path.read_text().replace(old, new, 1))
    with (
        pytest.raises(NirvanaError, match=f"tritonserver refused it: .*({reason})"),
        run_tritonserver(repository, find_tritonserver()),
    ):
        pass


def test_a_graph_that_was_changed_is_not_loaded(package: Path, tmp_path: Path) -> None:
    repository = copy(package, tmp_path / "copy")
    save_classifier(repository / "tiny" / "2" / "model.onnx", seed=5)
    with (
        pytest.raises(NirvanaError, match=r"2/model\.onnx has SHA-256 .* Package the model again"),
        run_tritonserver(repository, find_tritonserver()),
    ):
        pass
    with pytest.raises(NirvanaError, match=r"2/model\.onnx has SHA-256 .*package\.json says"):
        check_with_server(tmp_path / "copy")
