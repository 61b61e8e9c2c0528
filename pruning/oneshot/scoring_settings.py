"""Scoring settings as plain data: kept in a run's manifest, read back, and compared. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from pruning.allocation.allocation_config import Allocation
from pruning.errors import NirvanaError
from pruning.flat_settings import flatten
from pruning.oneshot.calibration_config import CalibrationConfig
from pruning.oneshot.scoring_config import ScoringConfig

_ALLOCATIONS = {kind.__name__: kind for kind in get_args(Allocation)}


def describe_scoring(config: ScoringConfig) -> dict[str, Any]:
    """Return the settings as JSON values; `read_scoring` reads them back."""
    kind = {"kind": type(config.allocation).__name__}
    return {**asdict(config), "allocation": {**kind, **asdict(config.allocation)}}


def read_scoring(plain: Mapping[str, Any]) -> ScoringConfig:
    """Make the settings of what `describe_scoring` returned."""
    allocation = dict(plain["allocation"])
    kind = _ALLOCATIONS[allocation.pop("kind")]
    calibration = CalibrationConfig(**plain["calibration"])
    given = {**plain, "allocation": kind(**allocation), "calibration": calibration}
    return ScoringConfig(**given)


def refuse_difference(found: Mapping[str, Any], asked: Mapping[str, Any], what: str) -> None:
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
