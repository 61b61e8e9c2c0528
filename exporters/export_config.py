"""How a checkpoint becomes ONNX. No torch, no onnx here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from pruning.calibration.calibration_config import CalibrationConfig
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Form = Literal["portable", "ort-cpu", "ort-cuda", "tensorrt"]
GraphPrecision = Literal["fp32", "fp16", "bf16", "int8", "int8-static"]
Graphs = Literal["merged", "split"]

FORMS: tuple[Form, ...] = get_args(Form)
GRAPH_PRECISIONS: tuple[GraphPrecision, ...] = get_args(GraphPrecision)
# What an export says of itself, beside its graphs.
EXPORT_FILE = "export.json"
# Those that graphs are tested with.
OPSETS = (18, 20, 23, 24)
_BUFFER_OPSET = 24
# For each form, the opset that it is tested with; caches in place for TensorRT are of 24.
DEFAULT_OPSETS: dict[Form, int] = {"portable": 18, "ort-cpu": 18, "ort-cuda": 18, "tensorrt": 24}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Set the graph and its verification.

        export:
          form: ort-cpu
          precision: int8

    Attributes:
        form: Form: the runtime that the graph's operators are chosen for.
        precision: Number format of the weights and of most operators.
        opset: ONNX opset: 18, 20, 23 or 24; by default that of the form.
        tolerance: Largest difference from torch, relative to the largest value if that is above 1;
            by default that of the precision.
        graphs: For decoders: one graph for the prompt and the tokens after it, or one for each.
        cache_length: For decoders in the form tensorrt: size of each cache in tokens, which the
            engine then writes in place. By default caches grow and are copied.
        calibration: For int8-static: the text on which the ranges of activations are measured, in
            one draw. By default random inputs are used.
    """

    form: Form = "portable"
    precision: GraphPrecision = "fp32"
    opset: int | None = None
    tolerance: float | None = None
    graphs: Graphs = "merged"
    cache_length: int | None = None

    calibration: CalibrationConfig | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.calibration is not None and self.precision != "int8-static":
            raise NirvanaError(
                "calibration is for the precision int8-static, which fixes the ranges of "
                f"activations; got it with {self.precision}. Leave it out, or set the precision."
            )
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
        if self.cache_length is not None:
            self._check_cache_length(self.cache_length)

    def check(self, model: PreTrainedModel) -> None:
        """Raise NirvanaError for a cache that the model does not have, or not so long a one.

        The model may be on the meta device.
        """
        if self.cache_length is None:
            return
        from pruning.tasks.position_limit import check_length

        if not model.can_generate() or model.config.is_encoder_decoder:
            raise NirvanaError(
                "cache_length is for decoders that generate, whose attention_mask says how much "
                f"of a cache is filled; {type(model).__name__} is none. Leave it out."
            )
        check_length(model, self.cache_length, "cache_length")

    def _check_cache_length(self, length: int) -> None:
        if length < 2:
            raise NirvanaError(
                f"cache_length must be 2 or more, a token and the next one, got {length}."
            )
        if self.form != "tensorrt":
            raise NirvanaError(
                f"cache_length is for the form tensorrt: a graph of the form {self.form} takes "
                "caches of any length. Set form to tensorrt, or leave cache_length out."
            )
        if self.chosen_opset < _BUFFER_OPSET:
            raise NirvanaError(
                f"cache_length needs opset {_BUFFER_OPSET}, whose TensorScatter writes a cache in "
                f"place, got {self.chosen_opset}. Leave opset out."
            )

    @property
    def chosen_opset(self) -> int:
        """The opset, by default that of the form."""
        return DEFAULT_OPSETS[self.form] if self.opset is None else self.opset
