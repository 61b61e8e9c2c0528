"""How a checkpoint becomes ONNX. No torch, no onnx here."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from pruning.errors import NirvanaError

Form = Literal["portable", "ort-cpu", "ort-cuda", "tensorrt"]
GraphPrecision = Literal["fp32", "fp16", "bf16", "int8", "int8-static"]
Graphs = Literal["merged", "split"]

FORMS: tuple[Form, ...] = get_args(Form)
GRAPH_PRECISIONS: tuple[GraphPrecision, ...] = get_args(GraphPrecision)
# For each form, the opset that it is tested with.
DEFAULT_OPSETS: dict[Form, int] = {"portable": 18, "ort-cpu": 18, "ort-cuda": 18, "tensorrt": 18}
# For each precision, the largest difference to torch in float32 that is accepted.
DEFAULT_TOLERANCES: dict[GraphPrecision, float] = {
    "fp32": 1e-4,
    "fp16": 2e-2,
    "bf16": 2e-1,
    "int8": 1.0,
    "int8-static": 1.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Set the graph and its verification."""

    form: Form = field(
        default="portable", metadata={"help": "what the graph is written for: its operators"}
    )
    precision: GraphPrecision = field(
        default="fp32", metadata={"help": "number format of the weights and of most operators"}
    )
    opset: int | None = field(
        default=None, metadata={"help": "ONNX opset of the graph; by default the form's"}
    )
    tolerance: float | None = field(
        default=None,
        metadata={
            "help": "largest difference to torch that is accepted; by default the precision's"
        },
    )
    graphs: Graphs = field(
        default="merged",
        metadata={"help": "decoders: one graph for prompt and next tokens, or one for each"},
    )

    def __post_init__(self) -> None:
        for name, value, known in (
            ("form", self.form, FORMS),
            ("precision", self.precision, GRAPH_PRECISIONS),
            ("graphs", self.graphs, get_args(Graphs)),
        ):
            if value not in known:
                raise NirvanaError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        if self.opset is not None and not 18 <= self.opset <= 24:
            raise NirvanaError(f"opset must be from 18 to 24, got {self.opset}.")
        if self.tolerance is not None and not self.tolerance > 0:
            raise NirvanaError(f"tolerance must be above 0, got {self.tolerance}.")

    @property
    def chosen_opset(self) -> int:
        """The opset, by default that of the form."""
        return DEFAULT_OPSETS[self.form] if self.opset is None else self.opset

    @property
    def chosen_tolerance(self) -> float:
        """The tolerance, by default that of the precision."""
        return DEFAULT_TOLERANCES[self.precision] if self.tolerance is None else self.tolerance
