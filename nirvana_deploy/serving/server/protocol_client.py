"""Asks a server of the Open Inference Protocol (KServe's version 2), over HTTP and gRPC."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np

from exporters.io_names import is_past
from nirvana_deploy.serving.onnx_signature import OnnxSignature, fill_dims
from pruning.errors import NirvanaError

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


def make_rows(
    signature: OnnxSignature, rows: int, length: int, seed: int = 0, *, num_tokens: int = 20
) -> Arrays:
    """Return random inputs; the attention mask of every second row ends one token early.

    Token ids are below `num_tokens`.
    """
    draw = np.random.default_rng(seed)
    inputs: dict[str, Any] = {}
    names = [tensor.name for tensor in signature.inputs]
    for tensor in signature.inputs:
        shape = (rows, *fill_dims(tensor.name, tensor.dims, length, names))
        dtype = np.dtype(_NUMPY_TYPES[tensor.data_type])
        values: Any = np.zeros(shape)
        if tensor.name == "attention_mask":
            values = np.ones(shape)
            values[1::2, -1:] = 0
        elif tensor.name == "input_ids":
            values = draw.integers(0, num_tokens, shape)
        elif is_past(tensor.name):
            values = draw.standard_normal(shape)
        inputs[tensor.name] = values.astype(dtype)
    return inputs


_NUMPY_TYPES = {
    "TYPE_BOOL": "bool",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
    "TYPE_FP16": "float16",
    "TYPE_FP32": "float32",
}


def make_body(inputs: Arrays, signature: OnnxSignature) -> dict[str, object]:
    """Return a request's body as JSON takes it."""
    types = {tensor.name: tensor.wire_type for tensor in signature.inputs}
    return {
        "inputs": [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": types[name],
                "data": array.reshape(-1).tolist(),
            }
            for name, array in inputs.items()
        ]
    }


def ask_http(
    address: str, model: str, version: str, inputs: Arrays, signature: OnnxSignature
) -> dict[str, object]:
    """Send a request as JSON to a URL such as http://localhost:8000 and return the outputs."""
    body = make_body(inputs, signature)
    which = f"/versions/{version}" if version else ""
    answer = get_json(f"{address}/v2/models/{model}{which}/infer", body)
    return {
        output["name"]: np.reshape(output["data"], output["shape"]) for output in answer["outputs"]
    }


def ask_grpc(
    address: str, model: str, version: str, inputs: Arrays, signature: OnnxSignature
) -> dict[str, object]:
    """Send a request by tritonclient to HOST:PORT and return the outputs."""
    from tritonclient import grpc

    types = {tensor.name: tensor.wire_type for tensor in signature.inputs}
    tensors = []
    for name, array in inputs.items():
        tensors.append(grpc.InferInput(name, list(array.shape), types[name]))
        tensors[-1].set_data_from_numpy(array)
    with grpc.InferenceServerClient(address) as client:
        answer = client.infer(model, tensors, model_version=version, client_timeout=60)
    return {tensor.name: answer.as_numpy(tensor.name) for tensor in signature.outputs}


def get_json(url: str, body: object = None) -> Any:
    """Get a URL, or post a body to it; raise NirvanaError with the server's reason."""
    data = None if body is None else json.dumps(body).encode()
    try:
        asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise NirvanaError(f"The server said: {error.read().decode(errors='replace')}") from error
