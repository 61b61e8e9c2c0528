"""Turns logits into labels and their scores in Triton's Python backend."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]


class TritonPythonModel:
    """The likeliest label by a softmax, or every label by its sigmoid or its logit."""

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
        self._kind = parameters["score_kind"]["string_value"]
        if self._kind not in ("softmax", "sigmoid", "raw"):
            raise triton.TritonModelException(
                f"config.pbtxt has score_kind {self._kind!r}; expected softmax, sigmoid or raw."
            )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, in their order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        logits = triton.get_input_tensor_by_name(request, "logits").as_numpy().astype(np.float64)
        if self._kind != "softmax":
            scores = logits if self._kind == "raw" else 0.5 * (1 + np.tanh(logits / 2))
            names = np.broadcast_to(self._labels, scores.shape)
        else:
            powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
            shares = powers / powers.sum(axis=-1, keepdims=True)
            names = self._labels[shares.argmax(axis=-1)][:, None]
            scores = shares.max(axis=-1, keepdims=True)
        return triton.InferenceResponse(
            [
                triton.Tensor("label", np.ascontiguousarray(names)),
                triton.Tensor("score", np.ascontiguousarray(scores.astype(np.float32))),
            ]
        )
