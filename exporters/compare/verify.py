"""Holds an ONNX file against the torch model it came from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from exporters.trace.padded_batch import make_batch
from exporters.trace.trace_onnx import find_input_names
from pruning.errors import MissingExtraError, NirvanaError

# Other than the traced shape, shorter and longer, with a batch of one.
COMPARED_SHAPES = ((1, 7), (2, 33), (5, 64), (8, 128))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The largest absolute logit difference on one batch."""

    batch: int
    length: int
    padded: bool
    max_abs_difference: float


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
            "cases": [asdict(case) for case in self.cases],
        }


def verify_onnx(onnx_path: Path, model: PreTrainedModel, tolerance: float) -> Verification:
    """Compare logits in ONNX Runtime with torch's, on padded and whole batches of four shapes.

    Raises:
        NirvanaError: the file is no valid ONNX, its inputs or dims are not as promised, or a
            difference is above `tolerance`.
    """
    check_graph(onnx_path, find_input_names(model))
    session = _open_session(onnx_path)
    cases = tuple(
        _compare(session, model, batch, length, padded)
        for batch, length in COMPARED_SHAPES
        for padded in (False, True)
    )
    verification = Verification(tolerance=tolerance, cases=cases)
    if not verification.max_abs_difference <= tolerance:
        worst = max(cases, key=lambda case: case.max_abs_difference)
        raise NirvanaError(
            f"{onnx_path} differs from its torch model by {worst.max_abs_difference:.2e} at batch "
            f"{worst.batch}, length {worst.length}, {'padded' if worst.padded else 'unpadded'}; "
            f"at most {tolerance:.0e} was expected. Do not use this file."
        )
    return verification


def check_graph(onnx_path: Path, input_names: tuple[str, ...]) -> None:
    """Raise NirvanaError unless the graph is valid and its inputs are [batch, sequence]."""
    import onnx

    try:
        onnx.checker.check_model(str(onnx_path), full_check=True)
        graph = onnx.load(str(onnx_path), load_external_data=False).graph
    except Exception as error:
        first_line = str(error).strip().splitlines()[0]
        raise NirvanaError(f"{onnx_path} is no valid ONNX file: {first_line}") from error
    found = {i.name: [_read_dim(d) for d in i.type.tensor_type.shape.dim] for i in graph.input}
    expected = {name: ["batch", "sequence"] for name in input_names}
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


def _compare(
    session: Any, model: PreTrainedModel, batch: int, length: int, padded: bool
) -> Comparison:
    longest = getattr(model.config, "max_position_embeddings", length) - 2  # roberta starts at 2
    length = min(length, longest)
    inputs = make_batch(model, batch, length, padded=padded, seed=batch * length)
    named = {name: inputs[name] for name in find_input_names(model)}
    with torch.no_grad():
        expected = model(**named).logits.float().numpy()
    (came,) = session.run(["logits"], {name: value.numpy() for name, value in named.items()})
    difference = float(np.abs(came - expected).max())
    return Comparison(
        batch=batch,
        length=length,
        padded=padded,
        max_abs_difference=difference if np.isfinite(came).all() else math.inf,
    )
