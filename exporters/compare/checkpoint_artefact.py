"""A model in torch as what its ONNX files are compared with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from exporters.compare.artefact import DECODER, ENCODER, Array, Artefact, TokenFacts
from exporters.export_config import ExportConfig
from exporters.trace.graph_part import GraphPart, GraphTensor
from exporters.trace.list_parts import list_parts
from exporters.trace.load_source import load_source
from pruning.checkpoints.model_source import fetch_model
from pruning.errors import NirvanaError
from pruning.token_ids import find_pad, list_steering

# The number of the outermost numbered module on a path: a block's, in each model that is wired.
_BLOCK = re.compile(r"^(?:[^.]*[^.\d][^.]*\.)*?(\d+)$")


class TorchGraph:
    """A graph part, called with arrays by name."""

    def __init__(self, part: GraphPart) -> None:
        self._part = part

    @property
    def inputs(self) -> tuple[GraphTensor, ...]:
        """List what it takes."""
        return self._part.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """List what it gives."""
        return tuple(spec.name for spec in self._part.outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; floats as float32."""
        tensors = [torch.from_numpy(inputs[spec.name]).to(spec.dtype) for spec in self._part.inputs]
        try:
            with torch.no_grad():
                outputs = self._part.module(*tensors)
        except (RuntimeError, IndexError, ValueError) as error:
            raise NirvanaError(
                f"torch could not run it: {_first_line(error)} If the model's rows are shorter, "
                "say so by max_length."
            ) from error
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        return {
            spec.name: _to_array(value)
            for spec, value in zip(self._part.outputs, values, strict=True)
        }

    def run_blocks(self, inputs: Mapping[str, Array]) -> dict[int, Array]:
        """Return what each block gives to the next, by the block's number."""
        found: dict[str, dict[int, Array]] = {}

        def keep(path: str, number: int) -> Any:
            def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                found.setdefault(path, {})[number] = _to_array(hidden)

            return hook

        blocks = list_blocks(self._part.module)
        hooks = [block.register_forward_hook(keep(*at)) for at, block in blocks.items()]
        try:
            self.run(inputs)
        finally:
            for handle in hooks:
                handle.remove()
        if not found:
            raise NirvanaError("the torch model has no list of numbered blocks.")
        return dict(sorted(max(found.values(), key=len).items()))


def list_blocks(module: nn.Module) -> dict[tuple[str, int], nn.Module]:
    """Return the members of the outermost lists of modules, by the list's path and their number."""
    found = {}
    for path, child in module.named_modules():
        if _BLOCK.match(path):
            parent, _, number = path.rpartition(".")
            found[parent, int(number)] = child
    return found


def _to_array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."


def open_checkpoint(source: str, graph_names: Iterable[str] = ()) -> Artefact:
    """Load a dense or pruned checkpoint in float32, in the graphs that the other side has.

    Raises:
        NirvanaError: it cannot be loaded, or has a head that is not exported.
    """
    names = set(graph_names)
    split = DECODER in names and ENCODER not in names
    model = load_source(fetch_model(source))
    config = ExportConfig(graphs="split" if split else "merged")
    return describe_parts(source, model, list_parts(model, config))


def describe_parts(name: str, model: PreTrainedModel, parts: Iterable[GraphPart]) -> Artefact:
    """Return the graph parts of a loaded model, in float32, as an artifact called `name`."""
    parts = tuple(parts)
    limits = {spec.limit for part in parts for spec in part.inputs if spec.name == "input_ids"}
    lengths = [part.max_length for part in parts if part.max_length is not None]
    num_tokens = min((limit for limit in limits if limit is not None), default=None)
    config = model.config.get_text_config()
    return Artefact(
        name=name,
        precision="fp32",
        graphs={part.name: TorchGraph(part) for part in parts},
        facts=TokenFacts(
            num_tokens=num_tokens,
            pad_token=find_pad(getattr(config, "pad_token_id", None), num_tokens),
            avoided=list_steering(config.to_dict()),
            num_types=getattr(config, "type_vocab_size", None),
            max_length=min(lengths, default=None),
        ),
        corners={},
    )
