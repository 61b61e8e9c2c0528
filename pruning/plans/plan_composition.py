"""Plans of plans: what is kept of what was kept, told in the dense model's numbers. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pruning.errors import NirvanaError
from pruning.plans.plan import LayerPlan, PruningPlan

_UNITS = (
    ("kept_heads", "head"),
    ("kept_neurons", "neuron"),
    ("kept_cross_heads", "cross-attention head"),
)


def compose(
    current: PruningPlan, layers: Sequence[LayerPlan], made_by: Mapping[str, object]
) -> PruningPlan:
    """Return the plan, relative to the dense model, of keeping `layers` of a pruned one.

    `layers` are those that `current` left in the model, and count the units that it left.

    Raises:
        NirvanaError: there are more or fewer layers, or a number is out of range.
    """
    left = [number for number, layer in enumerate(current.layers) if not layer.dropped]
    if len(layers) != len(left):
        raise NirvanaError(f"The plan has {len(layers)} layers, its model {len(left)}.")
    composed = list(current.layers)
    for position, number in enumerate(left):
        composed[number] = _compose_layer(current.layers[number], layers[position], position)
    history = dict(made_by)
    if current.made_by:
        history["after"] = current.made_by
    return PruningPlan(
        dims=current.dims,
        layers=tuple(composed),
        config_hash=current.config_hash,
        made_by=history,
        weights=current.weights,
    )


def check_within(plan: PruningPlan, current: PruningPlan) -> None:
    """Raise NirvanaError where `plan` keeps what `current` has removed already."""
    for number, (new, old) in enumerate(zip(plan.layers, current.layers, strict=True)):
        if old.dropped and not new.dropped:
            raise NirvanaError(f"Layer {number} is kept by the plan, the model dropped it before.")
        for name, unit in _UNITS:
            kept, left = getattr(new, name), getattr(old, name)
            if kept is None:
                continue
            if left is None:
                raise NirvanaError(
                    f"Layer {number}: the plan keeps {unit}s, the model dropped them all before."
                )
            gone = sorted(set(kept) - set(left))
            if gone:
                raise NirvanaError(
                    f"Layer {number}: the plan keeps {unit} {gone[0]}, the model has lost it "
                    "before. Apply the plan to the dense model."
                )


def _compose_layer(old: LayerPlan, new: LayerPlan, position: int) -> LayerPlan:
    if new.dropped:
        return LayerPlan.drop_block()
    return LayerPlan(
        kept_heads=_pick(old.kept_heads, new.kept_heads, position, "head"),
        kept_neurons=_pick(old.kept_neurons, new.kept_neurons, position, "neuron"),
        kept_cross_heads=_pick(
            old.kept_cross_heads, new.kept_cross_heads, position, "cross-attention head"
        ),
    )


def _pick(
    old: tuple[int, ...] | None, new: tuple[int, ...] | None, layer: int, unit: str
) -> tuple[int, ...] | None:
    if new is None or old is None:
        if new:
            raise NirvanaError(f"Layer {layer} has no {unit}s to keep; they were dropped before.")
        return None
    wrong = next((index for index in new if not 0 <= index < len(old)), None)
    if wrong is not None:
        raise NirvanaError(
            f"Layer {layer}: {unit} {wrong} is out of range; the model has {len(old)}."
        )
    return tuple(old[index] for index in new)
