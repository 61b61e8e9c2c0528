"""Turns logits into the likeliest label and its probability in Triton's Python backend."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]


class TritonPythonModel:
    """Softmax, then the largest."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the labels that lie beside this file, in the order of the logits."""
        path = Path(args["model_repository"]) / args["model_version"] / "labels.json"
        parameters = json.loads(args["model_config"])["parameters"]
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != parameters["file_sha256"]["string_value"]:
            raise triton.TritonModelException(
                "labels.json is not the file that config.pbtxt vouches for. Package the model "
                "again."
            )
        self._labels = np.array(json.loads(content), dtype=np.object_)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, in their order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        logits = triton.get_input_tensor_by_name(request, "logits").as_numpy().astype(np.float64)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares = powers / powers.sum(axis=-1, keepdims=True)
        best = shares.argmax(axis=-1)
        return triton.InferenceResponse(
            [
                triton.Tensor("label", self._labels[best][:, None]),
                triton.Tensor("score", shares.max(axis=-1, keepdims=True).astype(np.float32)),
            ]
        )
