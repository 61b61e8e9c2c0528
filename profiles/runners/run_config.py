"""How a model is run, and on what call. No numpy and no run-time here."""

from dataclasses import dataclass
from typing import Literal, get_args

from pruning.errors import NirvanaError

TorchMode = Literal["eager", "sdpa", "compile"]
OnnxRuntimeName = Literal["onnxruntime", "openvino"]
InferencePrecision = Literal["f32", "bf16", "f16"]
_DEFAULT_IDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Set the call, and the run-time of each kind of artifact.

        profile:
          length: 1         # a decoding step
          past: 512
          provider: cuda

    Attributes:
        length: Tokens per row; 1 for a decoding step.
        past: Tokens in a decoder's cache before the call.
        num_threads: Threads per operator; by default the CPUs that this process may use.
        vocab_size: Token ids are drawn below this number; by default below 1,000, or below the
            vocabulary of a model that has fewer.
        torch_mode: How a checkpoint is run: its attention implementation, or compiled.
        onnx_runtime: What runs ONNX files: onnxruntime, or openvino on the CPU.
        inference_precision: What OpenVINO computes in: f32, bf16, f16. The CPU must have it.
        provider: Execution provider of ONNX Runtime: cpu, cuda, tensorrt, tensorrt-rtx, or a full
            name.
        provider_options: Options of the execution provider as name=value; unknown ones are refused.
        provider_cache: Folder in which the execution provider keeps what it compiles; by default
            nothing is kept.
        cuda_graph: For engines: capture a run as a CUDA graph and launch that.
        seed: Random seed of token ids, order of runs and resampling.
    """

    length: int = 128
    past: int = 0
    num_threads: int | None = None
    vocab_size: int | None = None
    torch_mode: TorchMode = "sdpa"
    onnx_runtime: OnnxRuntimeName = "onnxruntime"
    inference_precision: InferencePrecision = "f32"
    provider: str = "cpu"
    provider_options: tuple[str, ...] = ()
    provider_cache: str | None = None
    cuda_graph: bool = False
    seed: int = 0

    @property
    def num_ids(self) -> int:
        """Return the number below which token ids are drawn."""
        return self.vocab_size or _DEFAULT_IDS

    @property
    def num_positions(self) -> int:
        """Positions that a call takes up: of its own tokens and of those in a cache before it."""
        return self.length + self.past

    def check_run(self) -> None:
        """Raise NirvanaError for a setting that makes no sense."""
        self.require_at_least(1, "length")
        self.require_at_least(0, "past", "seed")
        for name in ("vocab_size", "num_threads"):
            if getattr(self, name) is not None:
                self.require_at_least(1, name)
        for name, choices in (
            ("torch_mode", get_args(TorchMode)),
            ("onnx_runtime", get_args(OnnxRuntimeName)),
            ("inference_precision", get_args(InferencePrecision)),
        ):
            if getattr(self, name) not in choices:
                raise NirvanaError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}."
                )
        is_openvino = self.onnx_runtime == "openvino"
        if is_openvino and (self.provider != "cpu" or self.provider_options):
            raise NirvanaError(
                f"provider {self.provider} is ONNX Runtime's, and onnx_runtime is openvino, which "
                "runs on the CPU. Leave out one of them."
            )
        if self.inference_precision != "f32" and not is_openvino:
            raise NirvanaError(
                f"inference_precision {self.inference_precision} is for OpenVINO: set onnx_runtime "
                "to openvino, or leave it out."
            )

    def check_positions(self, limit: int | None, name: str) -> None:
        """Raise NirvanaError for a call that is longer than the positions that `name` has."""
        if limit is not None and self.num_positions > limit:
            more = self.num_positions > self.length
            together = " together with past or generate" if more else ""
            raise NirvanaError(
                f"length is {self.length}, which{together} takes {self.num_positions} positions, "
                f"and {name} has {limit}. Ask for at most {limit}."
            )

    def require_at_least(self, floor: int, *names: str) -> None:
        """Raise NirvanaError for the first of the settings `names` that is below `floor`."""
        for name in names:
            if not getattr(self, name) >= floor:
                raise NirvanaError(f"{name} must be {floor} or more, got {getattr(self, name)}.")

    def require_counts(self, *names: str) -> None:
        """Raise NirvanaError for a list of which a number is below 1, or there twice."""
        for name in names:
            counts = getattr(self, name)
            if min(counts, default=1) < 1 or len(set(counts)) < len(counts):
                raise NirvanaError(
                    f"{name} must be 1 or more and differ from each other, got "
                    f"{', '.join(map(str, counts))}."
                )
