"""The packaged application of Ray Serve, without Ray: that runs in benchmarks/serving_ray.py."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.triton.triton_package import package_triton
from tests.nirvana_deploy.serving.tiny_classifier import make_classifier, save_classifier

pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] (extra triton) is missing")
pytest.importorskip("fastapi", reason="FastAPI (extra test) is missing")


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    sources = OnnxSources(
        onnx=save_classifier(tmp_path / "pruned.onnx", 1),
        dense=save_classifier(tmp_path / "dense.onnx", 0),
    )
    config = PackageConfig(model_name="tiny", ray=True, max_batch_size=32)
    package_triton(sources, tmp_path / "package", config)
    ray: Any = ModuleType("ray")

    def deployment(**settings: Any) -> Any:
        def keep(cls: Any) -> Any:
            cls.bind = classmethod(lambda bound: bound)
            return cls

        return keep

    ray.serve = ModuleType("ray.serve")
    ray.serve.deployment, ray.serve.ingress = deployment, lambda api: lambda cls: cls
    monkeypatch.setitem(sys.modules, "ray", ray)
    spec = importlib.util.spec_from_file_location("ray_app", tmp_path / "package" / "ray_app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def request(rows: int) -> dict[str, Any]:
    each = {"shape": [rows, 2], "datatype": "INT64", "data": [3, 4] * rows}
    return {"inputs": [{"name": name, **each} for name in ("input_ids", "attention_mask")]}


def test_it_loads_the_newest_version_and_reads_requests(app: Any) -> None:
    model = app.Model()
    assert model.version == "2"
    feeds = model.read(request(2))
    (came,) = model.session.run(None, feeds)
    session = onnxruntime.InferenceSession(make_classifier(1).SerializeToString())
    np.testing.assert_allclose(came, session.run(None, feeds)[0], rtol=1e-6)
    with pytest.raises(ValueError, match="must be INT64 of 1 to 32 rows"):
        model.read(request(33))
    with pytest.raises(ValueError, match=r"takes \['attention_mask', 'input_ids'\], got \['x'\]"):
        model.read({"inputs": [{"name": "x"}]})


def test_a_changed_graph_is_not_loaded(app: Any) -> None:
    save_classifier(app.FOLDER / "model_repository" / "tiny" / "2" / "model.onnx", 7)
    with pytest.raises(RuntimeError, match=r"model\.onnx is not the file that was packaged"):
        app.Model()
