"""Traces one graph of a model to ONNX: free dimensions by name, all others fixed, inputs alive."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from exporters.trace.bfloat16_steps import widen_bfloat16_steps
from exporters.trace.graph_dims import check_signature, name_dims
from exporters.trace.graph_inputs import draw_inputs
from exporters.trace.graph_part import GraphPart
from exporters.trace.write_graph import write_graph
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx_ir

# The traced shape. A length of 1 would be specialised into the graph; none is like another, so that
# none is taken for another.
TRACED_SIZES = {"batch": 3, "sequence": 5, "past_sequence": 11, "encoder_sequence": 7}


def trace_part(part: GraphPart, out_path: Path, opset: int) -> None:
    """Write the graph of `part` to `out_path`, in the precision of its module.

    The model must have been loaded with eager attention: traced that way, the graph is the leanest
    for TensorRT, and the only one whose attentions all fuse when a layer has one head left.

    Raises:
        NirvanaError: torch.onnx refuses the module, the graph has not the inputs and outputs that
            the part promises, or an input on which the module depends leads nowhere.
    """
    write_graph(trace_graph(part, opset), out_path)


def trace_graph(part: GraphPart, opset: int) -> onnx_ir.Model:
    """Return the graph of `part` in memory, whose weights are those of its module.

    Raises:
        NirvanaError: as `trace_part`.
    """
    inputs = draw_inputs(part.inputs, TRACED_SIZES, padding="left")
    free = tuple(
        {axis: dim for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)}
        for tensor in part.inputs
    )
    # The exporter prints its progress, and a warning for every torchvision operator it lacks.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                part.module,
                inputs,
                input_names=[tensor.name for tensor in part.inputs],
                output_names=[tensor.name for tensor in part.outputs],
                dynamic_shapes=(free,),  # of *inputs
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise NirvanaError(
                f"torch.onnx cannot export the graph {part.name} of {_name_model(part)}: "
                f"{_find_reason(error)}"
            ) from error
    assert program is not None
    name_dims(program.model)
    if all(weight.dtype == torch.float32 for weight in part.module.parameters()):
        widen_bfloat16_steps(program.model)
    check_signature(program.model, part)
    return program.model


def _name_model(part: GraphPart) -> str:
    return type(getattr(part.module, "model", part.module)).__name__


def _find_reason(error: BaseException) -> str:
    """Return the first line of what an exporter's error was caused by; its own is advice."""
    cause = error.__cause__ or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
