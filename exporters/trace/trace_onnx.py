"""Traces a torch encoder to ONNX: dynamic batch and length, live mask, static head dims."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from exporters.export_config import ExportConfig
from exporters.trace.padded_batch import make_batch

# The traced shape. Batch and length of 1 would be specialised into the graph, and a mask of ones
# would drop attention_mask from it.
TRACED_BATCH, TRACED_LENGTH = 3, 20
# Weights beyond this go into a file beside the graph: protobuf holds 2 GB at most.
_EXTERNAL_DATA_BYTES = 1_500_000_000


def find_input_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the encoder inputs that `model` takes, in optimum's order and names."""
    accepted = inspect.signature(model.forward).parameters
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in accepted and getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    return tuple(names)


def trace_onnx(model: PreTrainedModel, out_path: Path, config: ExportConfig) -> None:
    """Write `model` as an fp32 graph `input_ids, attention_mask[, token_type_ids] -> logits`.

    The model must have been loaded with eager attention: traced that way, the graph is the leanest
    for TensorRT, and the only one whose attentions all fuse when a layer has one head left.
    """
    names = find_input_names(model)
    sample = make_batch(model, TRACED_BATCH, TRACED_LENGTH, padded=True)
    num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    out_path.parent.mkdir(parents=True, exist_ok=True)
    wrapper = _LogitsOnly(model, names).eval()
    # The exporter prints its progress, and a warning for every torchvision operator it lacks.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapper,
            tuple(sample[name] for name in names),
            str(out_path),
            input_names=list(names),
            output_names=["logits"],
            dynamic_shapes=(({0: "batch", 1: "sequence"},) * len(names),),  # of *inputs
            opset_version=config.opset,
            dynamo=True,
            external_data=num_bytes > _EXTERNAL_DATA_BYTES,
            verbose=False,
        )


class _LogitsOnly(nn.Module):
    """Takes inputs by position and returns one tensor, as a graph does."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        named = dict(zip(self.names, inputs, strict=True))
        logits: torch.Tensor = self.model(**named).logits
        return logits
