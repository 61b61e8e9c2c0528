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
# As in `nirvana serve`: room for special tokens and for those that a cut within a word spoils, and
# the characters of a text that are tokenized at first, per token that the model takes.
_SPARE_TOKENS = 16
_CHARS_PER_TOKEN = 16


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
        # To count tokens by, since one that truncates does not tell what it left out.
        self._whole = Tokenizer.from_str(content.decode("utf-8"))
        self._whole.no_truncation()
        self._whole.no_padding()
        self._max_chars = int(parameters["max_text_chars"])
        self._max_length = max_length = int(parameters["max_length"])
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
        given = triton.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        try:
            texts = [text.decode("utf-8") for text in given]
        except UnicodeDecodeError as error:
            message = f"text is not UTF-8: {error}"
            return triton.InferenceResponse(error=triton.TritonError(message))
        longest = max(map(len, texts), default=0)
        if longest > self._max_chars:
            message = (
                f"a text has {longest} characters; at most {self._max_chars} are taken. "
                "Cut it, or set a larger max_text_chars in the tokenizer's config.pbtxt."
            )
            return triton.InferenceResponse(error=triton.TritonError(message))
        rows = self._tokenizer.encode_batch([self._cut(text) for text in texts])
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

    def _cut(self, text: str) -> str:
        """Return a beginning of the text that fills the model's length, or all of it.

        A tokenizer reads a text to its end before it truncates: megabytes for 512 tokens.
        """
        size = _CHARS_PER_TOKEN * self._max_length
        while size < len(text):
            start = text[:size]
            if len(self._whole.encode(start).ids) > self._max_length + _SPARE_TOKENS:
                return start
            size *= 4
        return text
