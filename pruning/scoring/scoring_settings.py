"""Scoring settings as plain data: kept in a run's manifest, read back, and compared. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TypedDict, get_args

from pruning.allocation.allocation_config import Allocation
from pruning.calibration.calibration_config import CalibrationConfig
from pruning.errors import NirvanaError
from pruning.oneshot.oneshot_config import ScoringConfig
from pruning.strict_json import convert_json, flatten

_ALLOCATIONS = {kind.__name__: kind for kind in get_args(Allocation)}


class _Settings(TypedDict):
    saliency: str
    allocation: dict[str, object]
    calibration: dict[str, object]
    dtype: str
    damping: float
    draw_budget: float


def describe_scoring(config: ScoringConfig) -> dict[str, object]:
    """Return the settings as JSON values; `read_scoring` reads them back."""
    kind = {"kind": type(config.allocation).__name__}
    return {**asdict(config), "allocation": {**kind, **asdict(config.allocation)}}


def read_scoring(plain: Mapping[str, object]) -> ScoringConfig:
    """Make the settings of what `describe_scoring` returned."""
    name, remedy = "The settings of the scoring run", "Score the model again."
    given = convert_json(dict(plain), _Settings, name=name, remedy=remedy)
    allocation = dict(given["allocation"])
    kind = _ALLOCATIONS.get(str(allocation.pop("kind", None)))
    if kind is None:
        raise NirvanaError(f"{name} name no known allocation. {remedy}")
    return ScoringConfig(
        **{
            **given,
            "allocation": convert_json(allocation, kind, name=name, remedy=remedy, exact=True),
            "calibration": convert_json(
                given["calibration"], CalibrationConfig, name=name, remedy=remedy, exact=True
            ),
        }
    )


def refuse_difference(found: Mapping[str, object], asked: Mapping[str, object], what: str) -> None:
    """Raise NirvanaError naming every setting of `found` that is another in `asked`.

    `what` names the thing that has the settings `found`.
    """
    before, after = flatten(found), flatten(asked)
    changes = [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if changes:
        raise NirvanaError(
            f"{what} was made with other settings ({'; '.join(changes)}). Give the same ones, or "
            "a new folder."
        )
