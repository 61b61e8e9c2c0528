"""The graph of an encoder with any head, of text or images, and of a classifier of any kind."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from exporters.trace.graph_inputs import describe_outputs, describe_tokens, draw_inputs, is_live
from exporters.trace.graph_part import GraphPart, GraphTensor
from exporters.trace.load_source import EXPORTED
from pruning.errors import NirvanaError
from pruning.machine_limits import explain_limit
from pruning.tasks.position_limit import count_positions

# What heads return: the first row of which a model's output has all.
_OUTPUTS = (("start_logits", "end_logits"), ("logits",), ("last_hidden_state",))
# What is left out: states on the way, and the logits that DeiT takes the mean of.
_LEFT_OUT = re.compile(r"(encoder_|decoder_)?last_hidden_state|pooler_output|\w+_logits")


def list_encoder_parts(model: PreTrainedModel) -> tuple[GraphPart, ...]:
    """Return the one graph `model`."""
    accepted = inspect.signature(model.forward).parameters
    if model.main_input_name == "pixel_values":
        inputs = [_describe_pixels(model)]
    else:
        inputs = [*describe_tokens(model, "sequence")]
    names = _find_outputs(model, inputs)
    if "token_type_ids" in accepted and getattr(model.config, "type_vocab_size", 0) > 1:
        types = GraphTensor(
            name="token_type_ids",
            dtype=torch.int64,
            shape=("batch", "sequence"),
            limit=model.config.type_vocab_size,
        )
        if is_live(_make_module(model, [*inputs, types], names), [*inputs, types], types.name):
            inputs.append(types)
    module = _make_module(model, inputs, names)
    return (
        GraphPart(
            name="model",
            module=module,
            inputs=tuple(inputs),
            outputs=describe_outputs(module, inputs, names),
            max_length=count_positions(model),
        ),
    )


class NamedOutputs(nn.Module):
    """A model that takes its inputs by position and returns some of its outputs as a tuple."""

    def __init__(
        self, model: PreTrainedModel, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        accepted = inspect.signature(model.forward).parameters
        self.settings = {"use_cache": False} if "use_cache" in accepted else {}

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs in the order of their names."""
        named = dict(zip(self.inputs, inputs, strict=True))
        output = self.model(**named, **self.settings)
        return tuple(getattr(output, name) for name in self.outputs)


def _make_module(
    model: PreTrainedModel, inputs: Sequence[GraphTensor], outputs: Sequence[str]
) -> NamedOutputs:
    return NamedOutputs(model, [tensor.name for tensor in inputs], outputs).eval()


def _describe_pixels(model: PreTrainedModel) -> GraphTensor:
    size = model.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = ("batch", model.config.num_channels, height, width)
    return GraphTensor(name="pixel_values", dtype=model.dtype, shape=shape)


def _find_outputs(model: PreTrainedModel, inputs: Sequence[GraphTensor]) -> tuple[str, ...]:
    tensors = draw_inputs(inputs, {"batch": 1, "sequence": 4})
    named = {i.name: tensor for i, tensor in zip(inputs, tensors, strict=True)}
    try:
        with torch.no_grad():
            output = model(**named)
    except Exception as error:  # whatever a class that is not known expects
        if explain_limit(error, "export") is not None:
            raise
        raise NirvanaError(
            f"{type(model).__name__} is not exported: it does not run on {', '.join(named)} alone, "
            f"where tokens or pixels are drawn at random. {EXPORTED}"
        ) from error
    for names in _OUTPUTS:
        if all(isinstance(getattr(output, name, None), torch.Tensor) for name in names):
            given = output.items() if isinstance(output, dict) else ()
            lost = [name for name, value in given if _is_lost(name, value, names)]
            if lost:
                raise NirvanaError(
                    f"{type(model).__name__} is not exported: its head gives {', '.join(lost)} "
                    f"beside {', '.join(names)}, which the graph would lack. {EXPORTED}"
                )
            return names
    raise NirvanaError(
        f"{type(model).__name__} returns {', '.join(output.keys())}; expected logits, "
        f"start_logits and end_logits, or last_hidden_state. This head is not exported. {EXPORTED}"
    )


def _is_lost(name: str, value: object, kept: Sequence[str]) -> bool:
    is_known = name in kept or _LEFT_OUT.fullmatch(name) is not None
    return isinstance(value, torch.Tensor) and not is_known
