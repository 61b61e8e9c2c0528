"""How a checkpoint becomes ONNX. No torch, no onnx here."""

from dataclasses import dataclass, field
from typing import Literal

from pruning.errors import NirvanaError

Form = Literal["portable", "ort-cpu", "ort-cuda", "tensorrt"]
GraphPrecision = Literal["fp32", "fp16", "bf16", "int8", "int8-static"]

FORMS: tuple[Form, ...] = ("portable", "ort-cpu", "ort-cuda", "tensorrt")
GRAPH_PRECISIONS: tuple[GraphPrecision, ...] = ("fp32", "fp16", "bf16", "int8", "int8-static")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Set the trace and its verification."""

    opset: int = field(default=18, metadata={"help": "ONNX opset of the graph"})
    tolerance: float = field(
        default=1e-4,
        metadata={"help": "largest logit difference to torch that is accepted (fp32)"},
    )

    def __post_init__(self) -> None:
        if not 18 <= self.opset <= 24:
            raise NirvanaError(f"opset must be from 18 to 24, got {self.opset}.")
        if not self.tolerance > 0:
            raise NirvanaError(f"tolerance must be above 0, got {self.tolerance}.")
