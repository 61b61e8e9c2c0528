"""Writes the README of a Triton package: how to serve the model, and a request that it answers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from nirvana_deploy.serving.onnx_signature import OnnxSignature, TensorSignature, fill_dims
from nirvana_deploy.serving.package_config import OnnxSources, PackageConfig
from nirvana_deploy.serving.triton.placed_models import PlacedModel
from pruning.strict_json import JsonObject

# It carries ONNX Runtime 1.22.
IMAGE = "nvcr.io/nvidia/tritonserver:25.06-py3"
REQUEST_NAME = "request.json"
_SAMPLE_LENGTH = 8

_TEXT = """# {name}: a Triton model repository

Serve it (NVIDIA's container brings Triton and ONNX Runtime):

```sh
docker run --rm {gpus}\\
  -p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 -p 127.0.0.1:8002:8002 \\
  -v "$PWD/model_repository:/models:ro" {image} \\
  tritonserver --model-repository=/models
```

Run this command in the folder of this file. HTTP is on port 8000, gRPC on 8001, metrics on 8002,
for this machine alone: leave out `127.0.0.1:` to open them to the network. {device}

Wait until it is ready, then send `{request_name}`:

```sh
curl --fail http://localhost:8000/v2/models/{name}/ready
curl --fail -H 'Content-Type: application/json' -d @{request_name} \\
  http://localhost:8000/v2/models/{name}/infer
```

`{request_name}` holds one row of {length} tokens. Real token ids come from the tokenizer of the
checkpoint that this model was exported from:

```json
{request}
```

The answer holds {outputs}.
Requests run together, up to {max_batch_size} rows; one waits at most {delay_us} microseconds for
others. Rows that run together must be of the same length: pad them, with 0 in `attention_mask`.
{more}
`package.json` has the SHA-256 of every file here.
"""

_PYTHON = """
The model runs in Triton's Python backend, which needs ONNX Runtime: add `pip install onnxruntime`
to the image, or start Triton from a virtual environment that has it.
"""
_ENGINE = """
The model is a TensorRT engine. It runs on the GPUs and the TensorRT version that it was built for,
see `engine.json` beside it.
"""
_VERSIONS = """
Version 1 is the dense model, version 2 the pruned one, which a request gets that names none. Ask
for the other by `/v2/models/{name}/versions/1/infer`.
"""
_TWO_MODELS = """
`{dense}` is the dense model beside it. The two are no versions of one model: their caches have
other sizes, and Triton wants the same inputs of all versions.
"""
_TEXT_MODEL = """
`{name}_text` takes text and gives the likeliest label and its probability. A multi-label model
gives every label with its own probability, a regression the value that it predicts:

```sh
curl --fail -H 'Content-Type: application/json' \\
  -d '{{"inputs": [{{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["text"]}}]}}' \\
  http://localhost:8000/v2/models/{name}_text/infer
```

Its tokenizer runs in the Python backend and needs the package `tokenizers` there. A text that is
longer than the model is cut; one of more than `max_text_chars` characters (in the tokenizer's
`config.pbtxt`) is refused.
"""

_DEVICES = {
    "auto": "Add `--gpus all` to run on GPUs; without, it runs on the CPU.",
    "cpu": "The model runs on the CPU.",
    "gpu": "The model needs an NVIDIA GPU and the NVIDIA Container Toolkit.",
}


_ROLLOUT = """
Before the new model takes over, replay requests against both and see how far they agree, and how
fast each is (`requests.jsonl` holds random ones: put real ones in its place):

```sh
python compare_endpoints.py http://localhost:8000/v2/models/{name}/versions/1/infer \\
  http://localhost:8000/v2/models/{name}/versions/{last}/infer requests.jsonl
```
"""


_RAY = """
With Ray Serve instead of Triton, two replicas and more as requests wait: `pip install 'ray[serve]'
onnxruntime`, then `serve run ray_app:app` here.
"""
_KUBERNETES = """
`kubernetes.yaml` (Deployment, Service, autoscaling on Triton's queue) and `kserve.yaml` (with a
canary share of the traffic) want this folder in a volume claim `{resource}-package`, and the
autoscaler wants the Prometheus adapter. Edit image, sizes and replicas, then `kubectl apply -f
kubernetes.yaml`.
"""
_CANARY = """
`canary.yaml` (Gateway API) gives {percent} % of the requests that name no version to the pruned
model and the others to the dense one, behind a Gateway `{resource}-gateway` whose implementation
takes filters on backends, as Envoy Gateway does. Raise the weight step by step.
"""


def make_request(signature: OnnxSignature) -> JsonObject:
    """Return a request of one row in the form of the KServe protocol, version 2."""
    names = [tensor.name for tensor in signature.inputs]
    return {"inputs": [_fill_input(tensor, names) for tensor in signature.inputs]}


def write_readme(models: Sequence[PlacedModel], config: PackageConfig, sources: OnnxSources) -> str:
    """Return the text of the README; the last of the models is the one that requests are for."""
    signature = models[-1].signature
    outputs = [
        f"`{tensor.name}` ({tensor.wire_type}, {_describe_row(tensor)} a row)"
        for tensor in signature.outputs
    ]
    kind = "gpu" if sources.engine is not None else config.instance_kind
    return _TEXT.format(
        name=config.model_name,
        image=IMAGE,
        gpus="--gpus all " if kind == "gpu" else "",
        device=_DEVICES[kind],
        more="".join(_list_notes(models, config, sources)),
        request_name=REQUEST_NAME,
        request=format_request(signature),
        length=_SAMPLE_LENGTH,
        outputs=", ".join(outputs),
        max_batch_size=config.max_batch_size,
        delay_us=config.max_queue_delay_us,
    )


def _list_notes(
    models: Sequence[PlacedModel], config: PackageConfig, sources: OnnxSources
) -> list[str]:
    notes = [
        (sources.engine is not None, _ENGINE),
        (sources.engine is None and config.backend == "python", _PYTHON),
        (len(models[-1].graphs) > 1, _VERSIONS),
        (len(models) > 1, _TWO_MODELS),
        (sources.checkpoint is not None, _TEXT_MODEL),
        (config.ab, _ROLLOUT),
        (config.ray, _RAY),
        (config.kubernetes, _KUBERNETES),
        (config.kubernetes and sources.dense is not None, _CANARY),
    ]
    last = len(sources.graphs)
    names = {
        "name": config.model_name,
        "dense": models[0].name,
        "last": last,
        "percent": config.canary_percent,
        "resource": name_resource(config.model_name),
    }
    return [text.format(**names) for wanted, text in notes if wanted]


def name_resource(model_name: str) -> str:
    """Return a model's name as Kubernetes takes names: small letters, digits, dashes."""
    letters = (letter if letter.isalnum() else "-" for letter in model_name.lower())
    return "".join(letters).strip("-")[:50].strip("-") or "model"


def format_request(signature: OnnxSignature) -> str:
    """Return the request as JSON, an input a line."""
    inputs = ",\n".join(f"    {json.dumps(row)}" for row in make_request(signature)["inputs"])
    return f'{{\n  "inputs": [\n{inputs}\n  ]\n}}'


def _fill_input(tensor: TensorSignature, names: list[str]) -> dict[str, object]:
    shape = [1, *fill_dims(tensor.name, tensor.dims, _SAMPLE_LENGTH, names)]
    count = math.prod(shape)
    # Ids from 1, which every vocabulary has; a mask of ones; the rest, such as segments, zeros.
    values = {"input_ids": list(range(1, count + 1)), "attention_mask": [1] * count}
    data = values.get(tensor.name, [0] * count)
    return {"name": tensor.name, "shape": shape, "datatype": tensor.wire_type, "data": data}


def _describe_row(tensor: TensorSignature) -> str:
    sizes = [str(dim) if dim != -1 else "any number" for dim in tensor.dims]
    return f"{' x '.join(sizes)} values" if sizes else "one value"
