"""Triton packages of decoders: warm-up and samples fit tokens, cache and mask together."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from nirvana_deploy.serving.onnx_signature import read_signature
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.server.protocol_client import make_rows
from nirvana_deploy.serving.server.served_models import list_served_graphs
from nirvana_deploy.serving.triton.triton_package import package_triton
from nirvana_deploy.serving.triton.triton_schema import read_config_file
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.tiny_decoder import TinyDecoder

pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] (extra triton)")


def test_warm_up_and_sample_requests_run(pruned_decoder: TinyDecoder, tmp_path: Path) -> None:
    package_triton(OnnxSources(onnx=pruned_decoder.onnx), tmp_path / "package", PackageConfig())
    signature = read_signature(pruned_decoder.onnx)
    session = onnxruntime.InferenceSession(
        str(pruned_decoder.onnx), providers=["CPUExecutionProvider"]
    )
    dtypes = {name: rows.dtype for name, rows in make_rows(signature, 1, 2).items()}
    config = read_config_file(tmp_path / "package/model_repository/model/config.pbtxt")
    (warm_up,) = config.model_warmup
    zeros = {
        name: np.zeros((1, *given.dims), dtypes[name]) for name, given in warm_up.inputs.items()
    }
    request = json.loads((tmp_path / "package/request.json").read_text())["inputs"]
    sample = {
        each["name"]: np.array(each["data"], dtypes[each["name"]]).reshape(each["shape"])
        for each in request
    }
    for inputs in (zeros, sample, make_rows(signature, 3, 7)):
        logits = session.run(["logits"], inputs)[0]
        assert logits.shape[:2] == inputs["input_ids"].shape
        assert inputs["attention_mask"].shape[1] == 2 * logits.shape[1]


def test_dense_and_pruned_with_other_caches_are_two_models(
    dense_decoder: TinyDecoder, pruned_decoder: TinyDecoder, tmp_path: Path
) -> None:
    sources = OnnxSources(onnx=pruned_decoder.onnx, dense=dense_decoder.onnx)
    result = package_triton(sources, tmp_path / "package", PackageConfig(model_name="tiny"))
    assert result.models == ("tiny", "tiny-dense")
    for name, decoder in (("tiny", pruned_decoder), ("tiny-dense", dense_decoder)):
        folder = tmp_path / "package/model_repository" / name
        assert [path.name for path in folder.iterdir() if path.is_dir()] == ["1"]
        assert hash_file(folder / "1/model.onnx") == hash_file(decoder.onnx)
        caches = {t.name: t.dims for t in read_signature(decoder.onnx).inputs}
        config = read_config_file(folder / "config.pbtxt")
        assert {each.name: tuple(each.dims) for each in config.input} == caches
    assert "`tiny-dense` is the dense model" in (tmp_path / "package/README.md").read_text()
    served = [(graph.name, graph.version) for graph in list_served_graphs(tmp_path / "package")]
    assert served == [("tiny", "1"), ("tiny-dense", "1")]
    with pytest.raises(NirvanaError, match=r"ab replays .* caches differ: input past_key_values"):
        package_triton(sources, tmp_path / "other", PackageConfig(ab=True))
