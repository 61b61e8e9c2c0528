"""How an engine is built. No onnx, no TensorRT here."""

import re
from dataclasses import dataclass, field
from typing import Literal

from pruning.errors import NirvanaError

Flavour = Literal["auto", "tensorrt", "tensorrt_rtx"]
Precision = Literal["fp16", "fp32"]

FLAVOURS = ("auto", "tensorrt", "tensorrt_rtx")
PRECISIONS = ("fp16", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """Give the sizes of one dynamic dimension: what must run, and what to tune for."""

    min: int = field(metadata={"help": "smallest size that the engine accepts"})
    opt: int = field(metadata={"help": "size that the engine is tuned for"})
    max: int = field(metadata={"help": "largest size that the engine accepts"})

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise NirvanaError(
                "a shape range needs 1 <= min <= opt <= max, "
                f"got min={self.min}, opt={self.opt}, max={self.max}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Set flavour, precision, target GPUs and shapes of an engine."""

    flavour: Flavour = field(
        default="auto",
        metadata={"help": "auto takes tensorrt_rtx where it is installed, else tensorrt"},
    )
    precision: Precision = field(
        default="fp16", metadata={"help": "type of weights and activations; fp32 never fuses"}
    )
    compute_capabilities: tuple[str, ...] = field(
        default=("8.9",),
        metadata={
            "help": "GPU generations to build for, such as 8.9; "
            "none where the flavour builds for this machine's GPU only"
        },
    )
    batch: ShapeRange = field(
        default=ShapeRange(min=1, opt=8, max=32), metadata={"help": "rows a request"}
    )
    length: ShapeRange = field(
        default=ShapeRange(min=16, opt=128, max=512),
        metadata={"help": "tokens a row; max must not pass the model's position table"},
    )
    past: ShapeRange = field(
        default=ShapeRange(min=1, opt=128, max=512),
        metadata={"help": "decoders with a cache: tokens in it before the call"},
    )
    workspace_mib: int | None = field(
        default=None, metadata={"help": "scratch memory a layer may take, MiB; none: no limit"}
    )

    def __post_init__(self) -> None:
        _require_choice("flavour", self.flavour, FLAVOURS)
        _require_choice("precision", self.precision, PRECISIONS)
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d+\.\d", capability):
                raise NirvanaError(
                    f"a compute capability is written like '8.9' or '12.0', got {capability!r}."
                )
        if len(set(self.compute_capabilities)) < len(self.compute_capabilities):
            raise NirvanaError(
                "compute_capabilities must differ from each other, got "
                f"{', '.join(self.compute_capabilities)}."
            )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise NirvanaError(f"workspace_mib must be 1 or more, got {self.workspace_mib}.")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise NirvanaError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
