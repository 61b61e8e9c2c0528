"""What every loaded graph is to transformers: a model without weights of its own, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from exporters.onnx_session import open_session
from pruning.errors import NirvanaError

_NUMPY_TYPES: dict[str, object] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


class LoadedGraph:
    """An open graph; `inputs` has the numpy type of each by name."""

    def __init__(self, onnx_path: Path) -> None:
        """Open the graph; for what it raises see `open_session`."""
        self._session = open_session(onnx_path)
        self.inputs: dict[str, Any] = {
            node.name: _find_type(onnx_path, node) for node in self._session.get_inputs()
        }
        self._outputs = [node.name for node in self._session.get_outputs()]

    def run(self, named: dict[str, Any]) -> dict[str, object]:
        """Return all outputs; of what is given it takes the inputs that it has."""
        feeds = {name: np.asarray(named[name], dtype) for name, dtype in self.inputs.items()}
        arrays = self._session.run(self._outputs, feeds)
        return dict(zip(self._outputs, arrays, strict=True))


def _find_type(onnx_path: Path, node: Any) -> object:
    if node.type not in _NUMPY_TYPES:
        raise NirvanaError(
            f"{onnx_path}: the input {node.name!r} is {node.type}, which numpy has no type for. "
            "Export the model again in fp32 or fp16."
        )
    return _NUMPY_TYPES[node.type]


# Of a model of one graph.
MODEL_NAME = "model.onnx"


class OnnxModel(PreTrainedModel):
    """A model whose graphs ONNX Runtime runs. Its tensors are on the CPU."""

    main_input_name = "input_ids"

    @property
    def device(self) -> torch.device:
        """Where tensors are expected; there are no torch parameters to tell it."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the outputs."""
        return torch.float32

    def to(self, *args: Any, **kwargs: Any) -> OnnxModel:  # type: ignore[override]
        """Return itself where that moves and converts nothing; raise NirvanaError otherwise."""
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if device not in (None, self.device) or dtype not in (None, self.dtype):
            raise NirvanaError(
                f"A loaded export runs on the CPU, in the types of its graph; it cannot go to "
                f"{', '.join(str(each) for each in (device, dtype) if each is not None)}. Give "
                "device='cpu' to a pipeline."
            )
        return self

    def save_pretrained(self, *args: object, **kwargs: object) -> NoReturn:
        """Raise NirvanaError: there are no weights here to be saved."""
        raise NirvanaError("A loaded export holds no weights to save: copy its folder instead.")


def read_generation_config(folder: Path, config: PretrainedConfig) -> GenerationConfig:
    """Return the settings that a model was saved with, or those that its config implies."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)


class OnnxEncoder(OnnxModel):
    """A graph without a cache; its outputs are attributes, as `logits`."""

    def __init__(self, folder: Path, config: PretrainedConfig, *, file: str = MODEL_NAME) -> None:
        super().__init__(config)
        self._graph = LoadedGraph(folder / file)
        self._inputs = self._graph.inputs
        self.main_input_name = next(iter(self._inputs))

    def forward(self, input_ids: torch.Tensor | None = None, **inputs: object) -> ModelOutput:
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
        positions: np.ndarray[Any, Any] = np.maximum(
            np.asarray(given["attention_mask"]).cumsum(-1) - 1, 0
        ).astype(dtype)
        return positions
    if name not in ("attention_mask", "token_type_ids") or "input_ids" not in given:
        raise NirvanaError(f"The graph needs the input {name}, got {', '.join(given) or 'none'}.")
    fill = 1 if name == "attention_mask" else 0
    return np.full(tuple(given["input_ids"].shape), fill, dtype)
