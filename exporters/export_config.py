"""How a checkpoint becomes ONNX. No torch, no onnx here."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from pruning.errors import NirvanaError

Form = Literal["portable", "ort-cpu", "ort-cuda", "tensorrt"]
GraphPrecision = Literal["fp32", "fp16", "bf16", "int8", "int8-static"]
Graphs = Literal["merged", "split"]

FORMS: tuple[Form, ...] = get_args(Form)
GRAPH_PRECISIONS: tuple[GraphPrecision, ...] = get_args(GraphPrecision)
# Those that graphs are tested with.
OPSETS = (18, 20, 23, 24)
# For each form, the opset that it is tested with.
DEFAULT_OPSETS: dict[Form, int] = {"portable": 18, "ort-cpu": 18, "ort-cuda": 18, "tensorrt": 18}


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
        default=None, metadata={"help": "ONNX opset: 18, 20, 23 or 24; by default the form's"}
    )
    tolerance: float | None = field(
        default=None,
        metadata={
            "help": "largest difference to torch, of the largest value where that is above 1; by "
            "default the precision's"
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
            ("opset", self.opset, (*OPSETS, None)),
        ):
            if value not in known:
                listed = ", ".join(str(one) for one in known if one is not None)
                raise NirvanaError(f"{name} must be one of {listed}, got {value!r}.")
        if self.tolerance is not None and not self.tolerance > 0:
            raise NirvanaError(f"tolerance must be above 0, got {self.tolerance}.")

    @property
    def chosen_opset(self) -> int:
        """The opset, by default that of the form."""
        return DEFAULT_OPSETS[self.form] if self.opset is None else self.opset
