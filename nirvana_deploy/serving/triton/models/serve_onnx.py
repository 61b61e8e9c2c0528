"""Serves an ONNX file in Triton's Python backend. Needs numpy and onnxruntime there, no more."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton  # type: ignore[import-not-found]


class TritonPythonModel:
    """Runs waiting requests of one shape together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the model's files against their hashes, then load them."""
        folder = Path(args["model_repository"])
        config = json.loads(args["model_config"])
        _check_tensors()
        _check_files(folder, args["model_version"], config["parameters"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        path = folder / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=_choose_providers(args)
        )
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, in their order."""
        arrays = [self._read(request) for request in requests]
        alike: dict[tuple[Any, ...], list[int]] = {}
        for index, inputs in enumerate(arrays):
            alike.setdefault(tuple(array.shape[1:] for array in inputs), []).append(index)
        responses: list[Any] = [None] * len(requests)
        for indices in alike.values():
            answers = self._run([arrays[index] for index in indices])
            for index, answer in zip(indices, answers, strict=True):
                responses[index] = answer
        return responses

    def _read(self, request: Any) -> list[np.ndarray]:
        return [triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]

    def _run(self, group: list[list[np.ndarray]]) -> list[Any]:
        joined = [np.concatenate(parts) for parts in zip(*group, strict=True)]
        feeds = dict(zip(self._inputs, joined, strict=True))
        try:
            outputs = self._session.run(self._outputs, feeds)
        except Exception as error:  # ONNX Runtime's errors have no base of their own.
            message = str(error).strip().splitlines()[0]
            return [triton.InferenceResponse(error=triton.TritonError(message)) for _ in group]
        ends = np.cumsum([inputs[0].shape[0] for inputs in group])[:-1]
        parts = [np.split(output, ends) for output in outputs]
        return [
            triton.InferenceResponse(
                [
                    triton.Tensor(name, np.ascontiguousarray(part))
                    for name, part in zip(self._outputs, row, strict=True)
                ]
            )
            for row in zip(*parts, strict=True)
        ]


def _choose_providers(args: dict[str, str]) -> list[Any]:
    if args["model_instance_kind"] != "GPU":
        return ["CPUExecutionProvider"]
    device = {"device_id": int(args["model_instance_device_id"])}
    return [("CUDAExecutionProvider", device), "CPUExecutionProvider"]


def _check_tensors() -> None:
    """Refuse a backend that was built for NumPy 1 under NumPy 2: it corrupts tensors, silently."""
    sent = np.arange(6, dtype=np.int64).reshape(2, 3)
    packed = triton.Tensor("x", sent).to_dlpack()
    if not np.array_equal(triton.Tensor.from_dlpack("x", packed).as_numpy(), sent):
        raise triton.TritonModelException(
            f"This Triton's Python backend corrupts the tensors of NumPy {np.__version__}: it was "
            "built for NumPy 1. Install numpy<2 beside it, or take a newer Triton."
        )


def _check_files(folder: Path, version: str, parameters: dict[str, Any]) -> None:
    """Load nothing that the configuration does not vouch for."""
    expected = {
        name.removeprefix("sha256:"): parameter["string_value"]
        for name, parameter in parameters.items()
        if name.startswith(f"sha256:{version}/")
    }
    if f"{version}/model.onnx" not in expected:
        raise triton.TritonModelException(f"config.pbtxt has no sha256:{version}/model.onnx.")
    for name, sha256 in expected.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise triton.TritonModelException(
                f"{name} has SHA-256 {found[:12]}..., config.pbtxt says {sha256[:12]}... . "
                "Package the model again."
            )
