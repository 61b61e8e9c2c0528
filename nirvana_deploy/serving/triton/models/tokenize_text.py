"""Turns text into token ids in Triton's Python backend. Needs numpy and tokenizers there."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]
from tokenizers import Tokenizer

# Lengths are rounded up to this, so that more of the requests that wait are alike.
_LENGTH_STEP = 16


class TritonPythonModel:
    """Pads the rows of a request to the longest of them."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer that lies beside this file."""
        config = json.loads(args["model_config"])
        parameters = {name: item["string_value"] for name, item in config["parameters"].items()}
        path = Path(args["model_repository"]) / args["model_version"] / "tokenizer.json"
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != parameters["file_sha256"]:
            raise triton.TritonModelException(
                "tokenizer.json is not the file that config.pbtxt vouches for. Package the model "
                "again."
            )
        self._tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        max_length = int(parameters["max_length"])
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.enable_padding(
            pad_id=int(parameters["pad_id"]),
            pad_token=parameters["pad_token"],
            # A row is never filled up beyond the model's positions.
            pad_to_multiple_of=1 if max_length % _LENGTH_STEP else _LENGTH_STEP,
        )
        self._outputs = {
            output["name"]: triton.triton_string_to_numpy(output["data_type"])
            for output in config["output"]
        }

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, in their order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        texts = triton.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        try:
            rows = self._tokenizer.encode_batch([text.decode("utf-8") for text in texts])
        except UnicodeDecodeError as error:
            message = f"text is not UTF-8: {error}"
            return triton.InferenceResponse(error=triton.TritonError(message))
        columns = {
            "input_ids": [row.ids for row in rows],
            "attention_mask": [row.attention_mask for row in rows],
            "token_type_ids": [row.type_ids for row in rows],
        }
        return triton.InferenceResponse(
            [
                triton.Tensor(name, np.array(columns[name], dtype))
                for name, dtype in self._outputs.items()
            ]
        )
