"""Holds an artifact against its source, and keeps one that fails out of the way."""

from __future__ import annotations

import shutil
from pathlib import Path

from exporters.compare.artefact import Artefact
from exporters.compare.compare_config import CompareConfig
from exporters.compare.comparison import Comparison, compare_artefacts
from pruning.errors import NirvanaError
from pruning.progress import CountProgress

FAILED_SUFFIX = ".failed"


def verify_artefacts(
    source: Artefact,
    candidate: Artefact,
    config: CompareConfig | None = None,
    *,
    progress: CountProgress | None = None,
) -> Comparison:
    """Compare two artifacts as `compare_artefacts` does, and refuse one that a gate refuses.

    Raises:
        NirvanaError: besides, where a gate fails: the worst case and the first diverging layer.
    """
    comparison = compare_artefacts(source, candidate, config, progress=progress)
    if not comparison.passed:
        raise NirvanaError(explain_failure(comparison))
    return comparison


def explain_failure(comparison: Comparison) -> str:
    """Say what failed, in which case, and at which layer."""
    assert comparison.divergence is not None
    return (
        f"{comparison.candidate} does not compute what {comparison.source} does: "
        f"{'; '.join(comparison.failures)}. Worst at {comparison.worst.describe()}; "
        f"{comparison.divergence.where.rstrip('.')}. Do not use it."
    )


def keep_failed(written: Path, out: Path) -> Path:
    """Move what failed from where it was written to `OUT.failed` beside its place; return that.

    One that failed before is replaced. `out` itself is not touched.
    """
    kept = out.with_name(out.name + FAILED_SUFFIX)
    if kept.is_dir():
        shutil.rmtree(kept)
    else:
        kept.unlink(missing_ok=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(written, kept)
    return kept
