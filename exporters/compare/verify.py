"""Holds an ONNX file against the torch model it came from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.trace.graph_inputs import Padding, draw_inputs
from exporters.trace.graph_part import GraphPart
from pruning.errors import MissingExtraError, NirvanaError

# Other than the traced shape, shorter and longer, with a batch of one: (batch, length, in the cache
# before). What a graph has no input for is left out.
COMPARED_SHAPES = ((1, 7, 0), (1, 1, 6), (2, 33, 4), (5, 64, 1), (8, 128, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The largest absolute difference of any output on one batch."""

    graph: str
    batch: int
    length: int
    past_length: int
    padding: Padding | None
    max_abs_difference: float

    @property
    def padded(self) -> bool:
        """Whether some rows were padded."""
        return self.padding is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was compared, and how far apart the two were."""

    tolerance: float
    cases: tuple[Comparison, ...]

    @property
    def max_abs_difference(self) -> float:
        """The largest difference of all cases."""
        return max(case.max_abs_difference for case in self.cases)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "tolerance": self.tolerance,
            "max_abs_difference": self.max_abs_difference,
            "cases": [{**asdict(case), "padded": case.padded} for case in self.cases],
        }


def verify_part(onnx_path: Path, part: GraphPart, tolerance: float) -> Verification:
    """Compare a graph in ONNX Runtime with its torch module: whole, left- and right-padded batches.

    Raises:
        NirvanaError: the file is no valid ONNX, its inputs or dims are not as promised, or a
            difference is above `tolerance`.
    """
    check_graph(onnx_path, part)
    session = _open_session(onnx_path)
    cases = tuple(
        _compare(session, part, sizes, padding)
        for sizes in _list_sizes(part)
        for padding in _list_paddings(part)
    )
    verification = Verification(tolerance=tolerance, cases=cases)
    if not verification.max_abs_difference <= tolerance:
        worst = max(cases, key=lambda case: case.max_abs_difference)
        raise NirvanaError(
            f"{onnx_path} differs from its torch model by {worst.max_abs_difference:.2e} at batch "
            f"{worst.batch}, length {worst.length}, past length {worst.past_length}, padding "
            f"{worst.padding}; at most {tolerance:.0e} was expected. Do not use this file."
        )
    return verification


def check_graph(onnx_path: Path, part: GraphPart) -> None:
    """Raise NirvanaError unless the graph is valid and its inputs are those of `part`."""
    import onnx

    try:
        onnx.checker.check_model(str(onnx_path), full_check=True)
        graph = onnx.load(str(onnx_path), load_external_data=False).graph
    except Exception as error:
        first_line = str(error).strip().splitlines()[0]
        raise NirvanaError(f"{onnx_path} is no valid ONNX file: {first_line}") from error
    found = {i.name: [_read_dim(d) for d in i.type.tensor_type.shape.dim] for i in graph.input}
    expected = {tensor.name: list(tensor.shape) for tensor in part.inputs}
    if found != expected:
        raise NirvanaError(f"{onnx_path} should have the inputs {expected}, it has {found}.")


def _read_dim(dim: Any) -> str | int:
    return str(dim.dim_param) if dim.dim_param else int(dim.dim_value)


def _open_session(onnx_path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime, which verifies the export,", "cpu") from error
    return onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])


def _list_sizes(part: GraphPart) -> Iterator[dict[str, int]]:
    for batch, length, past in COMPARED_SHAPES:
        past = past if "past_sequence" in part.free_dims else 0
        longest = length + past if part.max_length is None else part.max_length
        sizes = {"batch": batch, "sequence": min(length, longest - past), "past_sequence": past}
        yield {**sizes, "encoder_sequence": min(length + 2, longest)}


def _list_paddings(part: GraphPart) -> tuple[Padding | None, ...]:
    masked = any(tensor.name.endswith("attention_mask") for tensor in part.inputs)
    return (None, "right", "left") if masked else (None,)


def _compare(
    session: Any, part: GraphPart, sizes: dict[str, int], padding: Padding | None
) -> Comparison:
    inputs = draw_inputs(part.inputs, sizes, padding=padding, seed=sum(sizes.values()))
    with torch.no_grad():
        expected = part.module(*inputs)
    feeds = {tensor.name: value.numpy() for tensor, value in zip(part.inputs, inputs, strict=True)}
    came = session.run([tensor.name for tensor in part.outputs], feeds)
    pairs = zip(expected, came, strict=True)
    return Comparison(
        graph=part.name,
        batch=sizes["batch"],
        length=sizes["sequence"],
        past_length=sizes["past_sequence"],
        padding=padding,
        max_abs_difference=max(
            _differ(of_torch.float().numpy(), other) for of_torch, other in pairs
        ),
    )


def _differ(expected: Any, came: Any) -> float:
    """Return the largest difference; infinity where there is a NaN or another shape."""
    if expected.shape != came.shape or not np.isfinite(came).all():
        return math.inf
    return float(np.abs(came - expected).max(initial=0.0))
