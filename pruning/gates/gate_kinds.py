"""What gates can be made of, and what gets one. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pruning.errors import NirvanaError
from pruning.number_ranges import check_numbers
from pruning.training.training_configs import require_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class StraightThrough:
    """Hard masks of 0 and 1; the gradient is the sigmoid's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardConcrete:
    """Masks drawn at random between 0 and 1, both included (CoFi, arXiv 2204.00408).

        prune:
          gate_kind: hard_concrete

    Attributes:
        temperature: Temperature b: the lower it is, the closer draws are to 0 and 1.
        stretch: Draws lie in (-stretch, 1 + stretch) before they are clamped to [0, 1].
    """

    temperature: float = 2 / 3
    stretch: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self)
        require_positive(self, "temperature", "stretch")


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftSigmoid:
    """Masks of sigmoid(gate), not rounded before the gates are projected onto the budget.

    Its density is the sum of the masks. What survives goes on being scaled by its mask, which is
    worked into the weights at the end.

        prune:
          gate_kind: soft_sigmoid

    Attributes:
        start_logit: Logit at which gates start without a ranking; 4 scales by 0.98.
    """

    start_logit: float = 4.0

    def __post_init__(self) -> None:
        require_positive(self, "start_logit")


# In a recipe {} is StraightThrough, {temperature: ...} HardConcrete, and {start_logit: ...}
# SoftSigmoid. The names do as well: gate_kind: soft_sigmoid.
GateKind = StraightThrough | HardConcrete | SoftSigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class GateUnits:
    """Choose what gets gates; what gets none stays whole.

        prune:
          units: {heads: true, neurons: true, attention_blocks: false, mlp_blocks: false}

    Attributes:
        heads: A gate for each head; with grouped queries, for each KV group.
        neurons: A gate for each MLP neuron.
        mlp_blocks: A gate for each MLP as a whole.
        attention_blocks: A gate for each attention as a whole, including cross-attentions.
        query_heads: With grouped queries, also a gate for each query head. Every group of an
            attention then keeps the same number of them.
    """

    heads: bool = True
    neurons: bool = True
    mlp_blocks: bool = True
    attention_blocks: bool = True
    query_heads: bool = False

    def __post_init__(self) -> None:
        names = [f.name for f in fields(self)]
        if not any(getattr(self, name) for name in names):
            raise NirvanaError(
                f"Nothing gets a gate: all of {', '.join(names)} are false. Set one to true."
            )
        if self.query_heads and not self.heads:
            raise NirvanaError(
                "units.query_heads adds gates to those of the KV groups, which units.heads=false "
                "leaves out. Set units.heads to true as well."
            )
