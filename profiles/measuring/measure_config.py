"""How latency is measured. No numpy and no run-time here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.runners.run_config import RunConfig
from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig(RunConfig):
    """Set the batch sizes, the callers at a time, and how often each is measured.

        batch_sizes: [1, 4, 16]     # flags of `nirvana sweep`: --batch-sizes 1,4,16
        callers: [1, 8]

    Attributes:
        batch_sizes: Batch sizes to measure (rows per request), in turns.
        callers: Numbers of concurrent callers to measure, one row per request; []: none.
        num_rounds: Samples per batch size.
        num_requests: Requests per caller.
    """

    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    callers: tuple[int, ...] = (1, 2, 4)
    num_rounds: int = 32
    num_requests: int = 32

    def __post_init__(self) -> None:
        check_numbers(self)
        self.check_run()
        self.require_counts("batch_sizes", "callers")
        self.require_at_least(1, "num_rounds", "num_requests")
        if not self.batch_sizes and not self.callers:
            raise NirvanaError("A sweep needs batch_sizes or callers, got neither.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig(RunConfig):
    """Set the batch shapes, how long to measure, and with how many threads.

        profile:
          batch_sizes: [1, 8]
          length: 128
          generate: 32      # decoders: the time to the first token, and between tokens

    Attributes:
        batch_sizes: Batch sizes to measure (rows per request).
        warmup_seconds: Shortest warm-up per case; it continues until the latency is steady.
        min_samples: Samples per model and case; p90 is withheld below 64.
        min_seconds: Shortest measurement per case.
        max_seconds: Longest time per case, including the warm-up.
        generate: Tokens to generate after a prompt of `length` tokens, to measure the time to the
            first token and between tokens; 0: none.
        callers: Loads to measure: numbers of concurrent callers that each wait for an answer; []:
            none.
        rates_per_s: Loads to measure: requests per second at random times; []: none.
    """

    batch_sizes: tuple[int, ...] = (1, 8)
    warmup_seconds: float = 1.0
    min_samples: int = 64
    min_seconds: float = 3.0
    max_seconds: float = 120.0
    generate: int = 0
    callers: tuple[int, ...] = ()
    rates_per_s: tuple[float, ...] = ()

    @property
    def num_positions(self) -> int:
        """Positions of a call, or of a text that is generated: its last token is not read."""
        return self.length + max(self.past, self.generate - 1)

    def check(self, model: PreTrainedModel, task: str) -> None:
        """Raise NirvanaError for a call that no graph of the model takes.

        The model may be on the meta device; `task` is what its head is for.
        """
        from pruning.tasks.position_limit import count_positions

        for name in ("past", "generate"):
            if getattr(self, name) and task != "causal-lm":
                raise NirvanaError(
                    f"{name} is for decoders (causal-lm), whose graph has a cache; the task is "
                    f"{task}. Leave it out."
                )
        vocab_size = int(model.config.get_text_config().vocab_size)
        if (self.vocab_size or 0) > vocab_size:
            raise NirvanaError(
                f"vocab_size is {self.vocab_size}, and the model has {vocab_size} tokens. Set it "
                f"to at most {vocab_size}."
            )
        self.check_positions(count_positions(model), f"this {model.config.model_type}")

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.batch_sizes:
            raise NirvanaError("batch_sizes must name at least one batch size, got none.")
        self.check_run()
        self.require_counts("batch_sizes", "callers")
        self.require_at_least(1, "min_samples")
        self.require_at_least(0, "warmup_seconds", "min_seconds", "generate")
        if not min(self.rates_per_s, default=1) > 0:
            raise NirvanaError(
                f"rates_per_s must be above 0, got {', '.join(map(str, self.rates_per_s))}."
            )
        if self.generate == 1:
            raise NirvanaError(
                "generate must be 0, or 2 tokens or more: with 1 there is nothing between tokens."
            )
        if not self.max_seconds > self.warmup_seconds + self.min_seconds:
            raise NirvanaError(
                "max_seconds must be above warmup_seconds + min_seconds = "
                f"{self.warmup_seconds + self.min_seconds:g}, got {self.max_seconds:g}."
            )
