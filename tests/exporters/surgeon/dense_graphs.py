"""Dense graphs of tiny models, written by the TorchScript exporter: a second, and not ours."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from pruning.cutting.repack import repack
from tests.pruning.tiny_models import batch_for, make_tiny, uneven_plan


class Logits(nn.Module):
    """Takes inputs by position and returns one tensor, as a graph does."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs):
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def export_torchscript(model: PreTrainedModel, path: Path, opset: int = 17) -> Path:
    """Write `batch -> logits` with free batch and lengths."""
    model.config.use_cache = False
    batch = batch_for(model)
    lengths = {name: f"{name}_length" for name in batch if name != "pixel_values"}
    lengths.update(dict.fromkeys(("input_ids", "attention_mask"), "sequence"))
    axes = {name: {0: "batch", **({1: lengths[name]} if name in lengths else {})} for name in batch}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(model, list(batch)).eval(),
            tuple(batch.values()),
            str(path),
            input_names=list(batch),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
    return path


class CachedLogits(nn.Module):
    """Takes ids, mask and caches by position, and returns logits and caches: others' layout."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids, mask, *past):
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        made = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        entries = [(layer.keys, layer.values) for layer in made.past_key_values.layers]
        return made.logits, *[tensor for entry in entries for tensor in entry]


def export_cached(model: PreTrainedModel, path: Path, *, dynamo: bool) -> Path:
    """Write a decoder's step with its cache, by either exporter of torch."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    entries = [f"{n}.{kind}" for n in range(config.num_hidden_layers) for kind in ("key", "value")]
    past = tuple(torch.randn(2, heads, 5, width) for _ in entries)
    given = (torch.ones(2, 4).long(), torch.ones(2, 9).long(), *past)
    inputs = ["input_ids", "attention_mask", *[f"past_key_values.{entry}" for entry in entries]]
    outputs = ["logits", *[f"present.{entry}" for entry in entries]]
    names = {"input_names": inputs, "output_names": outputs, "dynamo": dynamo}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if dynamo:
            free = torch.export.Dim.DYNAMIC
            shapes = ({0: free, 1: free}, {0: free, 1: free}, ({0: free, 2: free},) * len(past))
            program = torch.onnx.export(
                CachedLogits(model).eval(), given, dynamic_shapes=shapes, verbose=False, **names
            )
            program.save(str(path), external_data=False)
        else:
            axes = {"input_ids": {0: "batch", 1: "tokens"}}
            axes["attention_mask"] = {0: "batch", 1: "all"}
            axes |= {name: {0: "batch", 2: "before"} for name in inputs[2:]}
            axes |= {name: {0: "batch", 2: "all"} for name in outputs[1:]}
            axes["logits"] = {0: "batch", 1: "tokens"}
            torch.onnx.export(
                CachedLogits(model).eval(), given, str(path), dynamic_axes=axes,
                opset_version=17, **names,
            )  # fmt: skip
    return path


def run(path: Path, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the first output of a graph."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {i.name: batch[i.name].numpy() for i in session.get_inputs()}
    return torch.from_numpy(session.run(None, feeds)[0])


def assert_same_logits(
    path: Path, model: PreTrainedModel, sides: Sequence[str] = ("right", "left")
) -> None:
    """The graph gives the model's logits, where they mean something."""
    for side in sides:
        batch = batch_for(model, side)
        with torch.no_grad():
            expected = model(**batch).logits
        came = run(path, batch)
        if expected.dim() == 3 and not model.config.is_encoder_decoder:
            live = batch["attention_mask"].bool()
            came, expected = came[live], expected[live]
        # A logit is a sum of terms as large as the largest: T5's reach 10, and processors add them
        # in orders of their own.
        largest = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(came, expected, atol=4e-6 * largest + 6e-6, rtol=1e-5)


def weight_shapes(path: Path) -> list[tuple[int, ...]]:
    """Return the sorted shapes of all matrices of a graph, smaller side first."""
    graph = onnx.load(path).graph
    return sorted(tuple(sorted(t.dims)) for t in graph.initializer if _is_weight(t))


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return len(tensor.dims) == 2 and min(tensor.dims) > 1 and np.prod(tensor.dims) >= 64


def repacked(name: str) -> PreTrainedModel:
    """Return a tiny model after its uneven plan."""
    model = make_tiny(name, "eager")
    return repack(model, uneven_plan(model))
