"""The manifests against Kubernetes' own client: what it does not know, it drops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.triton.triton_package import package_triton
from nirvana_deploy.serving.triton.triton_readme import name_resource
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.tiny_classifier import save_classifier, save_engine

pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] (extra triton) is missing")
client: Any = pytest.importorskip("kubernetes.client", reason="kubernetes (extra test) is missing")
MODELS = {
    "Deployment": "V1Deployment",
    "Service": "V1Service",
    "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
}


def package(
    tmp_path: Path, *, engine: bool = False, dense: bool = False, **settings: Any
) -> list[dict[str, Any]]:
    onnx = save_classifier(tmp_path / "model.onnx")
    sources = OnnxSources(
        onnx=onnx,
        engine=save_engine(tmp_path / "e", onnx) if engine else None,
        dense=save_classifier(tmp_path / "dense.onnx", seed=1) if dense else None,
    )
    config = PackageConfig(model_name="Tiny_Model", kubernetes=True, **settings)
    package_triton(sources, tmp_path / "package", config)
    return list(yaml.safe_load_all((tmp_path / "package" / "kubernetes.yaml").read_text()))


def test_kubernetes_client_knows_every_field(tmp_path: Path) -> None:
    documents = package(tmp_path, target="a100-80")
    assert [document["kind"] for document in documents] == list(MODELS)
    api = client.ApiClient()
    for document in documents:
        read = api.deserialize(json.dumps(document), MODELS[document["kind"]], "application/json")
        assert api.sanitize_for_serialization(read) == document


def test_they_name_one_another_and_the_package(tmp_path: Path) -> None:
    deployment, service, autoscaler = package(tmp_path)
    assert deployment["metadata"]["name"] == "tiny-model"
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == "tiny-model"
    (container,) = pod["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    # The probe of a dead worker asks the model that is packaged, with the request beside it.
    command = container["livenessProbe"]["exec"]["command"]
    assert command[-1].endswith("/v2/models/Tiny_Model/infer")
    assert command[-2] == "@/package/request.json"
    assert (tmp_path / "package" / "request.json").is_file()
    assert container["volumeMounts"][0]["readOnly"]
    assert "tiny-model-package" in (tmp_path / "package" / "README.md").read_text()


@pytest.mark.parametrize(
    ("settings", "resource"),
    [
        ({"engine": True}, "nvidia.com/gpu"),
        (
            {"instance_kind": "gpu", "gpu_resource": "nvidia.com/mig-1g.10gb"},
            "nvidia.com/mig-1g.10gb",
        ),
        ({"target": "h100-sxm"}, "nvidia.com/gpu"),
        ({}, None),
    ],
    ids=["engine", "MIG", "target", "CPU"],
)
def test_gpus_are_asked_for_where_they_are_needed(
    tmp_path: Path, settings: dict[str, Any], resource: str | None
) -> None:
    deployment = package(tmp_path, **settings)[0]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    gpus = {n: v for n, v in container["resources"]["limits"].items() if n.startswith("nvidia")}
    assert gpus == ({} if resource is None else {resource: "1"})
    kserve = yaml.safe_load((tmp_path / "package" / "kserve.yaml").read_text())
    assert kserve["kind"] == "InferenceService"
    assert kserve["spec"]["predictor"]["model"]["resources"] == container["resources"]
    assert kserve["spec"]["predictor"]["canaryTrafficPercent"] == 10


def find_labels(pod: dict[str, Any]) -> list[dict[str, list[str]]]:
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return [
        {each["key"]: [each["operator"], *each["values"]] for each in term["matchExpressions"]}
        for term in required["nodeSelectorTerms"]
    ]


def test_nodes_are_chosen_by_target_or_by_what_the_engine_was_built_for(tmp_path: Path) -> None:
    capability = {"nvidia.com/gpu.compute.major": ["In", "8"]}
    deployment = package(tmp_path / "engine", engine=True)[0]
    pod = deployment["spec"]["template"]["spec"]
    assert find_labels(pod) == [{**capability, "nvidia.com/gpu.compute.minor": ["In", "6"]}]
    predictor = yaml.safe_load((tmp_path / "engine/package/kserve.yaml").read_text())["spec"]
    assert predictor["predictor"]["affinity"] == pod["affinity"]

    package(tmp_path / "target", target="a100-80")
    pod = yaml.safe_load((tmp_path / "target/package/kserve.yaml").read_text())["spec"]["predictor"]
    memory = {"nvidia.com/gpu.memory": ["Gt", "72000"]}
    minor = {"nvidia.com/gpu.compute.minor": ["In", "0"]}
    assert find_labels(pod) == [{**capability, **minor, **memory}]

    with pytest.raises(NirvanaError, match=r"built for compute capability 8\.6, .* l4 has 8\.9"):
        package(tmp_path / "other", engine=True, target="l4")
    with pytest.raises(NirvanaError, match="There is no target 'h10'"):
        package(tmp_path / "none", target="h10")
    with pytest.raises(NirvanaError, match=r"target names the GPU .* with instance_kind cpu"):
        package(tmp_path / "cpu", target="l4", instance_kind="cpu")


def test_a_canary_shares_requests_between_dense_and_pruned(tmp_path: Path) -> None:
    package(tmp_path, dense=True, canary_percent=25)
    route = yaml.safe_load((tmp_path / "package" / "canary.yaml").read_text())
    first, rest = route["spec"]["rules"]
    shares = {
        each["filters"][0]["urlRewrite"]["path"]["replaceFullPath"]: each["weight"]
        for each in first["backendRefs"]
    }
    url = "/v2/models/Tiny_Model"
    assert first["matches"][0]["path"] == {"type": "Exact", "value": f"{url}/infer"}
    assert shares == {f"{url}/versions/1/infer": 75, f"{url}/versions/2/infer": 25}
    assert rest["backendRefs"] == [{"name": "tiny-model", "port": 8000}]
    assert "`canary.yaml`" in (tmp_path / "package" / "README.md").read_text()
    package(tmp_path / "alone")
    assert not (tmp_path / "alone" / "package" / "canary.yaml").exists()
    with pytest.raises(NirvanaError, match="canary_percent must be from 0 to 100, got 101"):
        PackageConfig(canary_percent=101)


@pytest.mark.parametrize(
    ("name", "expected"), [("A_b.c", "a-b-c"), ("___", "model"), ("x" * 80, "x" * 50)]
)
def test_names_are_those_that_kubernetes_takes(name: str, expected: str) -> None:
    assert name_resource(name) == expected


def test_a_resource_that_is_none_is_refused() -> None:
    with pytest.raises(NirvanaError, match="gpu_resource must be a resource of Kubernetes"):
        PackageConfig(gpu_resource="a gpu")
