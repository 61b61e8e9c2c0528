"""How an engine is built. No onnx, no TensorRT here."""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

Flavour = Literal["auto", "tensorrt", "tensorrt_rtx"]
Precision = Literal["fp16", "bf16", "fp32", "graph"]
Hardware = Literal["none", "ampere_plus", "same_compute_capability"]

FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
HARDWARE: tuple[Hardware, ...] = get_args(Hardware)
# By input name: the least, the best and the largest shape.
GivenProfile = dict[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """Give the sizes of one dynamic dimension: what must run, and what to tune for."""

    min: int = field(metadata={"help": "smallest size that the engine accepts"})
    opt: int = field(metadata={"help": "size that the engine is tuned for"})
    max: int = field(metadata={"help": "largest size that the engine accepts"})

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 1 <= self.min <= self.opt <= self.max:
            raise NirvanaError(
                "a shape range needs 1 <= min <= opt <= max, "
                f"got min={self.min}, opt={self.opt}, max={self.max}. Set those that shall not be "
                "the default, too."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Set flavour, precision, target GPUs and shapes of an engine."""

    flavour: Flavour = field(
        default="auto",
        metadata={"help": "auto takes tensorrt_rtx where it is installed, else tensorrt"},
    )
    precision: Precision = field(
        default="fp16",
        metadata={
            "help": "type of weights and activations, into which an fp32 graph is converted (fp32 "
            "never fuses); graph: as the graph has them, int8 and fp8 included"
        },
    )
    compute_capabilities: tuple[str, ...] = field(
        default=("8.9",),
        metadata={
            "help": "GPU generations to build for, such as 8.9; where the flavour builds for this "
            "machine's GPU only, leave it"
        },
    )
    batch: ShapeRange = field(
        default=ShapeRange(min=1, opt=8, max=32), metadata={"help": "rows a request"}
    )
    length: ShapeRange = field(
        default=ShapeRange(min=16, opt=128, max=512),
        metadata={
            "help": "tokens a row, of a decoder's prompt; unless it is set, no more than the model "
            "has positions for"
        },
    )
    past: ShapeRange = field(
        default=ShapeRange(min=1, opt=128, max=512),
        metadata={"help": "decoders with a cache: tokens in it before a step; as length"},
    )
    profiles: tuple[GivenProfile, ...] = field(
        default=(),
        metadata={
            "help": "optimisation profiles: by input name [min, opt, max], a shape each; by "
            "default those of the task, from batch, length and past"
        },
    )
    workspace_mib: int | None = field(
        default=None, metadata={"help": "scratch memory a layer may take, MiB; none: no limit"}
    )
    optimisation_level: int | None = field(
        default=None,
        metadata={"help": "0 to 5: time to spend on finding faster kernels; none: the flavour's"},
    )
    timing_cache: str | None = field(
        default=None,
        metadata={"help": "folder that keeps kernel timings by flavour, version and device"},
    )
    version_compatible: bool = field(
        default=False, metadata={"help": "newer versions of the flavour can load the engine"}
    )
    hardware_compatible: Hardware = field(
        default="none", metadata={"help": "other GPUs than the one built on that the engine is for"}
    )
    weight_streaming: bool = field(
        default=False, metadata={"help": "weights may stay in host memory, in part, at run time"}
    )
    refittable: bool = field(
        default=False, metadata={"help": "re-trained weights can be put in: build --refit"}
    )
    require_fused_attention: bool = field(
        default=False, metadata={"help": "fail where an attention is not one fused kernel"}
    )

    def __post_init__(self) -> None:
        check_numbers(self)
        _require_choice("flavour", self.flavour, FLAVOURS)
        _require_choice("precision", self.precision, PRECISIONS)
        _require_choice("hardware_compatible", self.hardware_compatible, HARDWARE)
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
        if self.optimisation_level is not None and not 0 <= self.optimisation_level <= 5:
            raise NirvanaError(
                f"optimisation_level must be from 0 to 5, got {self.optimisation_level}."
            )
        for number, profile in enumerate(self.profiles):
            for name, shapes in profile.items():
                if len(shapes) != 3:
                    raise NirvanaError(
                        f"profiles must give three shapes an input, [min, opt, max]; profile "
                        f"{number} gives {len(shapes)} for {name}."
                    )
        if self.require_fused_attention and self.precision == "fp32":
            raise NirvanaError(
                "require_fused_attention cannot be met in precision fp32, whose attention is never "
                "fused. Ask for fp16 or bf16."
            )


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise NirvanaError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
