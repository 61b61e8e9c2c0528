"""How a server package is made. No onnx and no tritonclient here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSources:
    """What a package of ONNX files or an engine is made of.

    Attributes:
        onnx: the model that requests get.
        dense: its dense model, served as version 1 beside it.
        engine: folder of an engine that was built from `onnx`, served in its place.
        checkpoint: folder with tokenizer and labels, for a model that takes text.
    """

    onnx: Path
    dense: Path | None = None
    engine: Path | None = None
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.dense is not None and self.engine is not None:
            raise NirvanaError(
                "A package holds an engine alone, or a dense and a pruned ONNX file: give --engine "
                "or --dense."
            )

    @property
    def graphs(self) -> tuple[Path, ...]:
        """The ONNX files, by version from 1."""
        return (self.onnx,) if self.dense is None else (self.dense, self.onnx)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSources:
    """What a package for a server that reads checkpoints is made of: the checkpoint's folder."""

    checkpoint: Path


Sources: TypeAlias = OnnxSources | CheckpointSources

InstanceKind = Literal["auto", "cpu", "gpu"]
Backend = Literal["onnxruntime", "python"]
Stack = Literal["triton", "genai", "vllm", "tensorrt-llm"]
Form = Literal["uniform", "padded", "per-layer", "deci"]

INSTANCE_KINDS = ("auto", "cpu", "gpu")
BACKENDS = ("onnxruntime", "python")
STACKS = ("triton", "genai", "vllm", "tensorrt-llm")
FORMS = ("uniform", "padded", "per-layer", "deci")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubStack:
    """What a server takes.

    Attributes:
        name: for people.
        architectures: its own implementations, of those that we prune. vLLM:
            vllm/model_executor/models/registry.py; TensorRT-LLM:
            tensorrt_llm/_torch/models/__init__.py.
        neuron_multiple: what MLP widths are multiples of.
        ties_head_width: architectures whose class takes the hidden size by the heads for a head's
            width, whatever the config says of it.
        ties_mlp_width: architectures whose class takes four times the hidden size for it.
        takes_biases: its DeciLM has biases where the config asks for them.
        per_layer: it has a form in which each layer keeps its own sizes.
    """

    name: str
    architectures: frozenset[str]
    neuron_multiple: int = 1
    ties_head_width: frozenset[str] = frozenset()
    ties_mlp_width: frozenset[str] = frozenset()
    takes_biases: bool = True
    per_layer: bool = True

    @property
    def alternatives(self) -> str:
        """What to do about a plan that cannot be said."""
        own = ", form per-layer (each as it is; vLLM's plugin)" if self.per_layer else ""
        return (
            "Prune it with allocation uniform, so that all layers are alike; or package it with "
            f"form padded (zeros till they are alike), deci (block_configs, fewer zeros){own}; or "
            "package its ONNX export for genai or triton, which take any plan."
        )

    def check_architecture(self, name: str) -> None:
        """Raise NirvanaError for a class that the server does not implement."""
        if name not in self.architectures:
            raise NirvanaError(
                f"{self.name} has no {name} of those that are known here: "
                f"{', '.join(sorted(self.architectures))}. Package its ONNX export for genai or "
                "triton."
            )


HUB_STACKS = {
    "vllm": HubStack(
        name="vLLM",
        architectures=frozenset(
            {
                "FalconForCausalLM",
                "GPT2LMHeadModel",
                "GPTNeoXForCausalLM",
                "Gemma2ForCausalLM",
                "Gemma3ForCausalLM",
                "LlamaForCausalLM",
                "MistralForCausalLM",
                "OPTForCausalLM",
                "Phi3ForCausalLM",
                "Qwen2ForCausalLM",
                "Qwen3ForCausalLM",
            }
        ),
        # vllm/model_executor/models/qwen2.py, Qwen2Attention.
        ties_head_width=frozenset({"Qwen2ForCausalLM"}),
        # vllm/model_executor/models/falcon.py, FalconMLP.
        ties_mlp_width=frozenset({"FalconForCausalLM"}),
    ),
    "tensorrt-llm": HubStack(
        name="TensorRT-LLM",
        architectures=frozenset(
            {
                "Gemma3ForCausalLM",
                "LlamaForCausalLM",
                "MistralForCausalLM",
                "Qwen2ForCausalLM",
                "Qwen3ForCausalLM",
            }
        ),
        neuron_multiple=256,
        takes_biases=False,
        per_layer=False,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageConfig:
    """Set the model's name in the server, its batching and its instances.

        package:
          to: triton
          model_name: sections
          max_batch_size: 32
          preferred_batch_sizes: [8, 16]

    Attributes:
        to: Server to package for.
        backend: Triton backend: onnxruntime, or python, which every Triton has.
        model_name: Name of the model in the server, and of its folder.
        max_batch_size: Largest number of rows that run together.
        preferred_batch_sizes: Batch sizes at which waiting requests run at once; none: as they
            come.
        max_queue_delay_us: Longest wait for a larger batch, in microseconds.
        instance_kind: Where the model runs; auto takes a GPU if there is one.
        instance_count: Number of instances that run at the same time; on GPUs, per GPU.
        profiles: Optimization profiles of an engine to serve; by default all.
        ab: Add a script that compares two endpoints, and requests to replay.
        ray: Add an application of Ray Serve, ray_app.py.
        kubernetes: Add manifests for Kubernetes and KServe.
        form: Form of a checkpoint for vllm or tensorrt-llm: layers that are alike (uniform), padded
            with zeros to the same size (padded), each as it is (per-layer, vllm only), or as
            DeciLM's block_configs (deci).
        remote_code: Put code into a per-layer or deci package, which the server runs if it is told
            to trust remote code. Without it, vLLM uses nirvana-deploy's plugin.
        gpu_resource: GPU resource in the manifests; a MIG slice is, for example,
            nvidia.com/mig-1g.10gb.
        target: GPU that the manifests request, by its name in `nirvana targets`.
        canary_percent: Percentage of the requests that the canary manifest sends to the pruned
            model.
    """

    to: Stack = "triton"
    backend: Backend = "onnxruntime"
    model_name: str = "model"
    max_batch_size: int = 32
    preferred_batch_sizes: tuple[int, ...] = (8, 16, 32)
    max_queue_delay_us: int = 500
    instance_kind: InstanceKind = "auto"
    instance_count: int = 1
    profiles: tuple[int, ...] = ()
    ab: bool = False
    ray: bool = False
    kubernetes: bool = False
    form: Form = "uniform"
    remote_code: bool = False
    gpu_resource: str = "nvidia.com/gpu"
    target: str = ""
    canary_percent: int = 10

    @property
    def takes_checkpoint(self) -> bool:
        """Return whether the server reads a checkpoint, not ONNX."""
        return self.to in ("vllm", "tensorrt-llm")

    def check(self, model: PreTrainedModel, task: str, *, alike: bool) -> None:
        """Raise NirvanaError for a model that the server cannot hold.

        The model may be on the meta device; `task` is what its head is for, and `alike` says
        whether all of its layers will have the same sizes.
        """
        if self.to == "triton":
            return
        if task != "causal-lm":
            raise NirvanaError(
                f"{self.to} serves decoders that generate (causal-lm), and the task is {task}. "
                "Package for triton."
            )
        if self.takes_checkpoint:
            stack = HUB_STACKS[self.to]
            stack.check_architecture(type(model).__name__)
            if self.form == "uniform" and not alike:
                raise NirvanaError(
                    f"form uniform is for layers that are alike, and {stack.name} gets some that "
                    f"differ. {stack.alternatives}"
                )

    def __post_init__(self) -> None:
        check_numbers(self)
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.model_name):
            raise NirvanaError(
                "model_name must be a folder name of letters, digits, '_', '-' and '.', not "
                f"starting with '-' or '.', got {self.model_name!r}."
            )
        if not re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", self.gpu_resource):
            raise NirvanaError(
                "gpu_resource must be a resource of Kubernetes, such as nvidia.com/gpu, got "
                f"{self.gpu_resource!r}."
            )
        for name, floor in (
            ("max_batch_size", 1),
            ("instance_count", 1),
            ("max_queue_delay_us", 0),
        ):
            if getattr(self, name) < floor:
                raise NirvanaError(f"{name} must be {floor} or more, got {getattr(self, name)}.")
        if self.target and not self.kubernetes:
            raise NirvanaError(
                f"target {self.target} is what the manifests ask for: set kubernetes, too."
            )
        if not 0 <= self.canary_percent <= 100:
            raise NirvanaError(f"canary_percent must be from 0 to 100, got {self.canary_percent}.")
        if any(number < 0 for number in self.profiles) or len(set(self.profiles)) < len(
            self.profiles
        ):
            raise NirvanaError(
                "profiles must be different numbers from 0, got "
                f"{', '.join(map(str, self.profiles))}."
            )
        if not all(1 <= size <= self.max_batch_size for size in self.preferred_batch_sizes):
            raise NirvanaError(
                "preferred_batch_sizes must be from 1 to max_batch_size "
                f"({self.max_batch_size}), got {', '.join(map(str, self.preferred_batch_sizes))}."
            )
        self._check_form()
        if self.to in STACKS and self.to != "triton":
            self._refuse_settings_of_triton()
        for name, known in (
            ("to", STACKS),
            ("backend", BACKENDS),
            ("form", FORMS),
            ("instance_kind", INSTANCE_KINDS),
        ):
            if getattr(self, name) not in known:
                raise NirvanaError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}."
                )

    def _check_form(self) -> None:
        if self.form != "uniform" and not self.takes_checkpoint:
            raise NirvanaError(
                f"form is a setting of packages for vllm and tensorrt-llm, and {self.to} takes "
                "layers of any size. Leave it out."
            )
        if self.to == "tensorrt-llm" and self.form == "per-layer":
            raise NirvanaError(
                "form per-layer is vLLM's: TensorRT-LLM reads no sizes of single layers but "
                "DeciLM's. Choose form deci or padded."
            )
        if self.remote_code and self.form not in ("per-layer", "deci"):
            raise NirvanaError(
                f"remote_code is for the forms per-layer and deci; {self.form} needs none. Leave "
                "it out."
            )
        if self.to == "tensorrt-llm" and self.form == "deci" and not self.remote_code:
            raise NirvanaError(
                "TensorRT-LLM knows DeciLM's model but not its config, whose class it takes from "
                "the folder, with trust_remote_code. Ask for it with remote_code true, or choose "
                "form padded, which needs no code."
            )

    def _refuse_settings_of_triton(self) -> None:
        for name in ("ab", "ray", "kubernetes"):
            if getattr(self, name):
                raise NirvanaError(
                    f"{name} adds files to a Triton package, and a package for {self.to} has no "
                    "place for them. Leave it out, or package for triton."
                )
        if self.backend == "python":
            raise NirvanaError(
                f"backend is a setting of Triton packages, and {self.to} runs models by its own. "
                "Leave it out, or package for triton."
            )


def choose_sources(
    config: PackageConfig,
    model: Path,
    *,
    dense: Path | None = None,
    engine: Path | None = None,
    checkpoint: Path | None = None,
) -> Sources:
    """Return what a package of `model` is made of: a checkpoint's folder, or an ONNX file.

    Raises:
        NirvanaError: the server takes a checkpoint, and more was given; see also `OnnxSources`.
    """
    if not config.takes_checkpoint:
        return OnnxSources(onnx=model, dense=dense, engine=engine, checkpoint=checkpoint)
    others = {"dense": dense, "engine": engine, "checkpoint": checkpoint}
    if extra := [name for name, path in others.items() if path is not None]:
        raise NirvanaError(
            f"A package for {HUB_STACKS[config.to].name} holds one checkpoint, and --{extra[0]} is "
            "something else. Leave it out, or package each on its own."
        )
    return CheckpointSources(checkpoint=model)
