"""How an engine is built. No onnx, no TensorRT here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
    """Give the sizes of one dynamic dimension: what must run, and what to tune for.

        build:
          length: {min: 16, opt: 128, max: 512}

    Attributes:
        min: Smallest size that the engine accepts.
        opt: Size that the engine is tuned for.
        max: Largest size that the engine accepts.
    """

    min: int
    opt: int
    max: int

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
    """Set flavor, precision, target GPUs and shapes of an engine.

        build:
          precision: fp16
          compute_capabilities: ["8.9"]                # L4, L40S, RTX 40
          batch: {min: 1, opt: 8, max: 32}
          length: {min: 16, opt: 128, max: 256}

    Attributes:
        flavour: TensorRT flavor; auto takes tensorrt_rtx if it is installed, otherwise tensorrt.
        precision: Type of weights and activations, to which an fp32 graph is converted (attention
            in fp32 is never fused). graph: the types of the graph, including int8 and fp8.
        compute_capabilities: GPU generations to build for, such as 8.9. Leave it out if the flavor
            builds for this machine's GPU only.
        batch: Batch size (rows per request).
        length: Tokens per row; for a decoder, of its prompt. By default at most the model's
            positions.
        past: For decoders with a cache: tokens in the cache before a step, with limits as for
            length.
        profiles: Optimization profiles: for each input name the shapes [min, opt, max]. By default
            those of the task, from batch, length and past.
        workspace_mib: Scratch memory per layer in MiB; none: no limit.
        optimisation_level: Builder optimization level, 0 to 5: the higher, the longer it searches
            for fast kernels; none: the flavor's default.
        timing_cache: Folder for the timing cache: kernel timings by flavor, version and device.
        version_compatible: Let newer versions of the flavor load the engine.
        hardware_compatible: GPUs other than the one at build time that the engine is for.
        weight_streaming: Allow part of the weights to stay in host memory at run time.
        refittable: Allow retrained weights to be put in later, with `nirvana build --refit`.
        require_fused_attention: Fail if an attention is not one fused kernel.
    """

    flavour: Flavour = "auto"
    precision: Precision = "fp16"
    compute_capabilities: tuple[str, ...] = ("8.9",)
    batch: ShapeRange = ShapeRange(min=1, opt=8, max=32)
    length: ShapeRange = ShapeRange(min=16, opt=128, max=512)
    past: ShapeRange = ShapeRange(min=1, opt=128, max=512)
    profiles: tuple[GivenProfile, ...] = ()
    workspace_mib: int | None = None
    optimisation_level: int | None = None
    timing_cache: str | None = None
    version_compatible: bool = False
    hardware_compatible: Hardware = "none"
    weight_streaming: bool = False
    refittable: bool = False
    require_fused_attention: bool = False

    def check(self, model: PreTrainedModel) -> None:
        """Raise NirvanaError for shapes beyond the model's positions; defaults are cut to fit.

        The model may be on the meta device. Profiles that are given are compared with the graph.
        """
        from pruning.tasks.position_limit import check_length

        default = EngineConfig()
        if self.length != default.length and not self.profiles:
            check_length(model, self.length.max, "length.max")
        if self.past != default.past and not self.profiles and model.can_generate():
            check_length(model, self.past.max, "past.max", more=1)  # the token after the cache

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
