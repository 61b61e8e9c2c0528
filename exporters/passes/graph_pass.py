"""What a pass over a graph is, and what it says of its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import onnx_ir as ir

from pruning.errors import NirvanaError

CONTRIB = "com.microsoft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Say which node was left as it was, and why."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PassOutcome:
    """What a pass did: how many places it changed, and which ones it refused."""

    name: str
    num_changed: int
    refusals: tuple[Refusal, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


class NoMatchError(Exception):
    """A place has not the structure that a pass rewrites. The pass tells it as a refusal."""


class GraphPass(ir.passes.InPlacePass):
    """A pass in place: `requires`, then `rewrite`, then `ensures`; its outcome is kept."""

    outcome: PassOutcome

    @property
    def name(self) -> str:
        """Name the pass in outcomes and messages."""
        return type(self).__name__

    def rewrite(self, model: ir.Model) -> PassOutcome:
        """Change `model` in place and say what was done."""
        raise NotImplementedError

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place, as onnx-ir calls it."""
        self.outcome = self.rewrite(model)
        return ir.passes.PassResult(model, modified=self.outcome.num_changed > 0)

    def tell(self, num_changed: int, refusals: Sequence[Refusal] = ()) -> PassOutcome:
        """Make the outcome of this pass."""
        return PassOutcome(name=self.name, num_changed=num_changed, refusals=tuple(refusals))


def require_opset(model: ir.Model, lowest: int, what: str) -> None:
    """Raise NirvanaError unless the graph's opset is at least `lowest`."""
    opset = model.graph.opset_imports.get("") or 0
    if opset < lowest:
        raise NirvanaError(
            f"{what} needs opset {lowest} or newer, the graph has {opset}. Export it again with "
            f"opset {lowest}."
        )


def use_contrib(model: ir.Model) -> None:
    """Import ONNX Runtime's own operators, in place."""
    model.graph.opset_imports.setdefault(CONTRIB, 1)
