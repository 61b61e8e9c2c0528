"""A graph without a cache, called as the model that it was traced from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig
from transformers.utils.generic import ModelOutput

from nirvana_deploy.serving.loaded.onnx_model import MODEL_NAME, LoadedGraph, OnnxModel
from pruning.errors import NirvanaError


class OnnxEncoder(OnnxModel):
    """A graph without a cache; its outputs are attributes, as `logits`."""

    def __init__(self, folder: Path, config: PretrainedConfig, *, file: str = MODEL_NAME) -> None:
        super().__init__(config)
        self._graph = LoadedGraph(folder / file)
        self._inputs = self._graph.inputs
        self.main_input_name = next(iter(self._inputs))

    def forward(self, input_ids: torch.Tensor | None = None, **inputs: Any) -> ModelOutput:
        """Run a batch of tensors by name, such as a tokenizer makes them.

        Without an attention mask, all tokens count; without token types, they are 0.

        Raises:
            NirvanaError: an input is missing that has no default, or one is not known.
        """
        named = {"input_ids": input_ids, **inputs}
        given = {name: value for name, value in named.items() if value is not None}
        if (
            "token_type_ids" not in self._inputs
            and not np.asarray(named.get("token_type_ids")).any()
        ):
            given.pop("token_type_ids", None)  # tokenizers make them; zeros are what it computes
        if unknown := sorted(set(given) - set(self._inputs) - {"return_dict"}):
            raise NirvanaError(
                f"The graph takes {', '.join(self._inputs)}; it has no input {unknown[0]}."
            )
        feeds = {name: _to_array(given, name, dtype) for name, dtype in self._inputs.items()}
        made = self._graph.run(feeds)
        return ModelOutput(**{name: torch.from_numpy(array) for name, array in made.items()})


def _to_array(given: dict[str, Any], name: str, dtype: Any) -> np.ndarray[Any, Any]:
    if name in given:
        return np.asarray(given[name]).astype(dtype)
    if name == "position_ids" and "attention_mask" in given:  # padding has no position of its own
        return np.maximum(np.asarray(given["attention_mask"]).cumsum(-1) - 1, 0).astype(dtype)
    if name not in ("attention_mask", "token_type_ids") or "input_ids" not in given:
        raise NirvanaError(f"The graph needs the input {name}, got {', '.join(given) or 'none'}.")
    fill = 1 if name == "attention_mask" else 0
    return np.full(tuple(given["input_ids"].shape), fill, dtype)
