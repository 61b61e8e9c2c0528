"""What every loaded graph is to transformers: a model without weights of its own, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from pruning.errors import NirvanaError

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

    def save_pretrained(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise NirvanaError: there are no weights here to be saved."""
        raise NirvanaError("A loaded export holds no weights to save: copy its folder instead.")


def read_generation_config(folder: Path, config: PretrainedConfig) -> GenerationConfig:
    """Return the settings that a model was saved with, or those that its config implies."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)
