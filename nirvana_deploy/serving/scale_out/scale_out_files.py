"""What a Triton package brings to scale out: for Kubernetes, KServe, Ray, and to compare two."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exporters.engines.check_loadable import list_targets
from exporters.engines.engine_manifest import read_engine_manifest
from nirvana_deploy.serving.onnx_signature import OnnxSignature
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.server.protocol_client import make_body, make_rows
from nirvana_deploy.serving.triton.placed_models import PlacedModel
from nirvana_deploy.serving.triton.triton_readme import IMAGE, REQUEST_NAME, name_resource
from nirvana_deploy.yaml_text import dump_yaml
from profiles.targets.target import Target, list_target_names, load_target
from pruning.errors import NirvanaError

# What a driver reports is a little less than what is sold: in MiB, of a GB.
_REPORTED_MIB_PER_GB = 900
RAY_NAME = "ray_app.py"
SCRIPT_NAME = "compare_endpoints.py"
REQUESTS_NAME = "requests.jsonl"
_LENGTHS = (8, 16, 32, 64)
_NUM_REQUESTS = 32


def asks_for_gpu(config: PackageConfig, sources: OnnxSources) -> bool:
    """Return whether a pod needs a GPU: for an engine, by the instances' kind, or by a target."""
    wanted = config.instance_kind == "gpu" or bool(config.target)
    return sources.engine is not None or wanted


def affinity_of(config: PackageConfig, sources: OnnxSources) -> dict[str, object]:
    """Return `affinity` of a pod for nodes whose GPU the model runs on; nothing for any node.

    By the labels of NVIDIA's GPU feature discovery: compute capability, and memory of a target.

    Raises NirvanaError for a target that is no GPU, that instances on the CPU do not use, or that
    the engine was not built for.
    """
    target = None if not config.target else _find_target(config)
    capabilities = () if sources.engine is None else _read_capabilities(sources)
    if target is not None:
        if capabilities and target.compute_capability not in capabilities:
            raise NirvanaError(
                f"The engine was built for compute capability {', '.join(capabilities)}, and "
                f"target {config.target} has {target.compute_capability}. Build it for this target."
            )
        capabilities = (str(target.compute_capability),)
    if not capabilities:
        return {}
    terms = [{"matchExpressions": _match(each, target)} for each in capabilities]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"affinity": {"nodeAffinity": required}}


def _find_target(config: PackageConfig) -> Target:
    if config.instance_kind == "cpu" or config.target == "cpu":
        raise NirvanaError(
            f"target names the GPU that the manifests ask for, got {config.target!r} with "
            f"instance_kind {config.instance_kind}. Leave it out for a CPU, or choose among "
            f"{', '.join(list_target_names())}."
        )
    return load_target(config.target)


def _read_capabilities(sources: OnnxSources) -> tuple[str, ...]:
    assert sources.engine is not None
    manifest = read_engine_manifest(sources.engine)
    # Which GPUs "Ampere and newer" are, no label says.
    return () if manifest.hardware_compatible == "ampere_plus" else list_targets(manifest)


def _match(capability: str, target: Target | None) -> list[dict[str, object]]:
    major, _, minor = capability.partition(".")
    labels = {"major": major, "minor": minor}
    found: list[dict[str, object]] = [
        {"key": f"nvidia.com/gpu.compute.{part}", "operator": "In", "values": [value]}
        for part, value in labels.items()
    ]
    if target is not None:
        least = str(int(target.memory_gb * _REPORTED_MIB_PER_GB))
        found.append({"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [least]})
    return found


KUBERNETES_NAME = "kubernetes.yaml"
KSERVE_NAME = "kserve.yaml"
CANARY_NAME = "canary.yaml"
_MOUNT = "/package"
_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
_MAX_REPLICAS = 4
_PENDING_PER_REPLICA = 16


def write_manifests(
    out_dir: Path, config: PackageConfig, sources: OnnxSources, models: Sequence[PlacedModel]
) -> None:
    """Write the files into a package's folder; what is in them is a start, to be edited.

    Raises NirvanaError for a target that is none, or that the engine was not built for.
    """
    documents = (
        _make_deployment(config, sources),
        _make_service(config),
        _make_autoscaler(config),
    )
    text = "---\n".join(dump_yaml(document) for document in documents)
    (out_dir / KUBERNETES_NAME).write_text(text, encoding="utf-8")
    text = dump_yaml(_make_inference_service(config, sources))
    (out_dir / KSERVE_NAME).write_text(text, encoding="utf-8")
    if sources.dense is not None:
        text = dump_yaml(_make_canary(config, models))
        (out_dir / CANARY_NAME).write_text(text, encoding="utf-8")


def _make_deployment(config: PackageConfig, sources: OnnxSources) -> dict[str, object]:
    name = name_resource(config.model_name)
    container = {
        "name": "triton",
        "image": IMAGE,
        "command": ["tritonserver", f"--model-repository={_MOUNT}/model_repository"],
        "ports": [{"name": port, "containerPort": number} for port, number in _PORTS.items()],
        "resources": _list_resources(config, sources),
        "volumeMounts": [{"name": "package", "mountPath": _MOUNT, "readOnly": True}],
        "startupProbe": {**_probe_health(), "failureThreshold": 60, "periodSeconds": 5},
        "readinessProbe": {**_probe_health(), "periodSeconds": 5},
        # Triton says ready while a worker of its Python backend is dead: only a request tells.
        "livenessProbe": {
            "exec": {"command": _make_sample_request(config)},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {
                    "labels": {"app": name},
                    "annotations": {
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": str(_PORTS["metrics"]),
                    },
                },
                "spec": {
                    **affinity_of(config, sources),
                    "terminationGracePeriodSeconds": 60,
                    "containers": [container],
                    "volumes": [
                        {
                            "name": "package",
                            "persistentVolumeClaim": {
                                "claimName": f"{name}-package",
                                "readOnly": True,
                            },
                        }
                    ],
                },
            },
        },
    }


def _make_service(config: PackageConfig) -> dict[str, object]:
    name = name_resource(config.model_name)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "selector": {"app": name},
            "ports": [
                {"name": port, "port": number, "targetPort": port}
                for port, number in _PORTS.items()
            ],
        },
    }


def _make_autoscaler(config: PackageConfig) -> dict[str, object]:
    """Scale by what waits in Triton's queue, which the Prometheus adapter gives to Kubernetes."""
    name = name_resource(config.model_name)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": _MAX_REPLICAS,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": "nv_inference_pending_request_count"},
                        "target": {
                            "type": "AverageValue",
                            "averageValue": str(_PENDING_PER_REPLICA),
                        },
                    },
                }
            ],
        },
    }


def _make_inference_service(config: PackageConfig, sources: OnnxSources) -> dict[str, object]:
    """The newest revision gets a part of the traffic until it is promoted."""
    name = name_resource(config.model_name)
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {
            "predictor": {
                **affinity_of(config, sources),
                "minReplicas": 1,
                "maxReplicas": _MAX_REPLICAS,
                "scaleMetric": "concurrency",
                "scaleTarget": _PENDING_PER_REPLICA,
                "canaryTrafficPercent": config.canary_percent,
                "model": {
                    "modelFormat": {"name": "triton"},
                    "runtime": "kserve-tritonserver",
                    "protocolVersion": "v2",
                    "storageUri": f"pvc://{name}-package/model_repository",
                    "resources": _list_resources(config, sources),
                },
            }
        },
    }


def _make_canary(config: PackageConfig, models: Sequence[PlacedModel]) -> dict[str, object]:
    """Share the requests that name no version between dense and pruned, behind one address."""
    name = name_resource(config.model_name)
    path = f"/v2/models/{config.model_name}/infer"
    last = len(models[-1].graphs)
    pruned = f"/v2/models/{config.model_name}/versions/{last}/infer"
    dense = f"/v2/models/{models[0].name}/versions/1/infer"
    shares = ((dense, 100 - config.canary_percent), (pruned, config.canary_percent))
    backend = {"name": name, "port": _PORTS["http"]}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": f"{name}-canary"},
        "spec": {
            "parentRefs": [{"name": f"{name}-gateway"}],
            "rules": [
                {
                    "matches": [{"path": {"type": "Exact", "value": path}}],
                    "backendRefs": [
                        {**backend, "weight": weight, "filters": [_rewrite(path)]}
                        for path, weight in shares
                    ],
                },
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/v2"}}],
                    "backendRefs": [backend],
                },
            ],
        },
    }


def _rewrite(path: str) -> dict[str, object]:
    return {
        "type": "URLRewrite",
        "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": path}},
    }


def _list_resources(config: PackageConfig, sources: OnnxSources) -> dict[str, object]:
    limits = {"cpu": "4", "memory": "8Gi"}
    if asks_for_gpu(config, sources):
        limits[config.gpu_resource] = "1"  # its instances share it
    requests = {name: limits[name] for name in ("cpu", "memory")}
    return {"requests": requests, "limits": limits}


def _probe_health() -> dict[str, object]:
    return {"httpGet": {"path": "/v2/health/ready", "port": "http"}}


def _make_sample_request(config: PackageConfig) -> list[str]:
    url = f"http://localhost:{_PORTS['http']}/v2/models/{config.model_name}/infer"
    data = f"@{_MOUNT}/{REQUEST_NAME}"
    quiet = ["--fail", "--silent", "--max-time", "4", "--output", "/dev/null"]
    return ["curl", *quiet, "--data", data, url]


def write_rollout(out_dir: Path, signature: OnnxSignature) -> None:
    """Write the script, and random requests of a row and of different lengths, to `out_dir`."""
    _copy(SCRIPT_NAME, out_dir)
    lengths = np.random.default_rng(0).choice(_LENGTHS, _NUM_REQUESTS)
    bodies = (
        make_body(make_rows(signature, 1, int(length), seed=number), signature)
        for number, length in enumerate(lengths)
    )
    text = "".join(f"{json.dumps(body)}\n" for body in bodies)
    (out_dir / REQUESTS_NAME).write_text(text, encoding="utf-8")


def write_ray_app(out_dir: Path) -> None:
    """Write the application that serves the package by Ray Serve to `out_dir`."""
    _copy(RAY_NAME, out_dir)


def _copy(name: str, out_dir: Path) -> None:
    shutil.copyfile(Path(__file__).parent / name, out_dir / name)
