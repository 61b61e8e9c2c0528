"""What a text model answers follows the model's problem_type, not a softmax over whatever came."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer

from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.server.protocol_client import get_json
from nirvana_deploy.serving.server.served_models import ServedGraph, list_served_graphs
from nirvana_deploy.serving.text_model_file import score_labels
from nirvana_deploy.serving.triton.triton_package import package_triton
from nirvana_deploy.serving.triton.tritonserver import find_free_ports
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.tiny_classifier import make_classifier, save_checkpoint
from tests.nirvana_deploy.serving.triton.test_models import load, triton

pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] (extra triton) is missing")

__all__ = ["triton"]  # a fixture of the tests of Triton's models

NAMES = ["toxic", "spam", "rude"]
TEXT = "the first text that is longer"
KINDS = [
    ("multi_label_classification", 3, "sigmoid"),
    ("multi_label_classification", 1, "sigmoid"),
    ("single_label_classification", 3, "softmax"),
    ("regression", 1, "raw"),
    ("regression", 3, "raw"),
    (None, 1, "raw"),
    (None, 3, "softmax"),
]


def save_graph(path: Path, num_labels: int) -> Path:
    model = make_classifier()
    table = onnx.numpy_helper.to_array(model.graph.initializer[0])[:, :num_labels]
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.ascontiguousarray(table), "table")
    )
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = num_labels
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def package(
    folder: Path, problem_type: str | None, num_labels: int, *, with_dense: bool = False
) -> Path:
    checkpoint = save_checkpoint(folder / "checkpoint")
    config: dict[str, Any] = {"id2label": dict(enumerate(NAMES[:num_labels]))}
    if problem_type is not None:
        config["problem_type"] = problem_type
    (checkpoint / "config.json").write_text(json.dumps(config))
    graph = save_graph(folder / "onnx" / "model.onnx", num_labels)
    dense = save_graph(folder / "dense" / "model.onnx", num_labels) if with_dense else None
    package_triton(
        OnnxSources(onnx=graph, dense=dense, checkpoint=checkpoint),
        folder / "package",
        PackageConfig(),
    )
    return folder / "package"


def compute_logits(folder: Path, text: str) -> np.ndarray:
    tokens = Tokenizer.from_file(str(folder / "checkpoint" / "tokenizer.json")).encode(text)
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
    feeds = {"input_ids": [tokens.ids], "attention_mask": [tokens.attention_mask]}
    logits: np.ndarray = session.run(None, {k: np.array(v) for k, v in feeds.items()})[0]
    return logits


def expect(logits: np.ndarray, kind: str) -> tuple[list[str], list[float]]:
    """Return what transformers' own pipeline makes of the logits of a row."""
    row = torch.from_numpy(logits[0]).double()
    names = NAMES[: len(row)]
    if kind == "softmax":
        shares = row.softmax(-1)
        return [names[int(shares.argmax())]], [float(shares.max())]
    return names, (row.sigmoid() if kind == "sigmoid" else row).tolist()


def find_text(package: Path) -> ServedGraph:
    return next(graph for graph in list_served_graphs(package) if graph.text is not None)


@pytest.mark.parametrize(("problem_type", "num_labels", "kind"), KINDS)
@pytest.mark.parametrize("with_dense", [False, True])
def test_serve_and_triton_answer_by_the_problem_type(
    triton: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem_type: str | None,
    num_labels: int,
    kind: str,
    with_dense: bool,
) -> None:
    made = package(tmp_path, problem_type, num_labels, with_dense=with_dense)
    logits = compute_logits(tmp_path, TEXT)
    labels, scores = expect(logits, kind)
    served = find_text(made)
    assert served.text is not None and served.text.score_kind == kind
    assert [tensor.dims for tensor in served.signature.outputs] == [(len(labels),)] * 2
    (names,), (came,) = score_labels(logits, served.text.labels, served.text.score_kind)
    assert names == labels
    np.testing.assert_allclose(came, scores, rtol=1e-5, atol=1e-6)

    folder = made / "model_repository" / "model_label"
    config = triton_config(folder)
    assert [list(output.dims) for output in config.output] == [[len(labels)]] * 2
    parameters = {name: item.string_value for name, item in config.parameters.items()}
    model = load("name_label", folder, parameters, monkeypatch)
    (response,) = model.execute([{"logits": np.concatenate([logits, logits])}])
    assert response.outputs["label"].tolist() == [labels, labels]
    np.testing.assert_allclose(response.outputs["score"], [scores] * 2, rtol=1e-5, atol=1e-6)


def triton_config(folder: Path) -> Any:
    from nirvana_deploy.serving.triton.triton_schema import read_config_file

    return read_config_file(folder / "config.pbtxt")


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "message"),
    [
        ("single_label_classification", 1, "one label, of which the probability is always 1"),
        ("ranking", 3, r"problem_type 'ranking', for which no score is known.* Expected one of"),
    ],
)
def test_a_score_that_cannot_be_told_is_refused(
    tmp_path: Path, problem_type: str, num_labels: int, message: str
) -> None:
    with pytest.raises(NirvanaError, match=message):
        package(tmp_path, problem_type, num_labels)
    assert not (tmp_path / "package").exists()


def rewrite_text_file(package: Path, **changes: Any) -> None:
    """Change text.json as another version would have written it, hash and all."""
    import hashlib

    path = package / "model_repository" / "model_text" / "1" / "text.json"
    document = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))
    manifest = json.loads((package / "package.json").read_text())
    name = path.relative_to(package).as_posix()
    manifest["sha256"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (package / "package.json").write_text(json.dumps(manifest))


def test_packages_of_older_versions_are_read_where_their_softmax_was_right(tmp_path: Path) -> None:
    made = package(tmp_path / "three", None, 3)
    rewrite_text_file(made, score_kind=None, num_answers=None)
    text = find_text(made).text
    assert text is not None and text.score_kind == "softmax"
    made = package(tmp_path / "one", None, 1)
    rewrite_text_file(made, score_kind=None, num_answers=None)
    with pytest.raises(NirvanaError, match="softmax over one logit is 1 for every text"):
        list_served_graphs(made)


def test_a_text_file_that_fits_no_version_or_no_labels_is_refused(tmp_path: Path) -> None:
    made = package(tmp_path, "multi_label_classification", 3)
    rewrite_text_file(made, num_answers=2)
    with pytest.raises(NirvanaError, match=r"names 3 labels, and text\.json has num_answers 2"):
        list_served_graphs(made)
    rewrite_text_file(made, num_answers=3, score_kind="hinge")
    with pytest.raises(NirvanaError, match=r"score_kind.*hinge"):
        list_served_graphs(made)


@pytest.mark.skipif(find_spec("uvicorn") is None, reason="the extra serve is missing")
def test_a_multi_label_model_is_served_with_every_label(tmp_path: Path) -> None:
    made = package(tmp_path, "multi_label_classification", 3)
    ports = find_free_ports(3)
    names = ("http_port", "grpc_port", "metrics_port")
    flags = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    command = [sys.executable, "-m", "nirvana_deploy", "serve", str(made), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert any(line.startswith("Ready: ") for line in process.stdout)
        texts = [TEXT, "a word"]
        request = {"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": texts}
        url = f"http://127.0.0.1:{ports[0]}/v2/models/model_text/infer"
        answer = get_json(url, {"inputs": [request]})
    finally:
        process.terminate()
        process.wait(timeout=180)
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["label"]["shape"] == outputs["score"]["shape"] == [2, 3]
    assert outputs["label"]["data"] == NAMES * 2
    expected = [expect(compute_logits(tmp_path, text), "sigmoid")[1] for text in texts]
    np.testing.assert_allclose(outputs["score"]["data"], np.ravel(expected), rtol=1e-5, atol=1e-6)
