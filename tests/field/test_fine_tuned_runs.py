"""The report of a run without a baseline says so, and draws none that is left from before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nirvana_deploy.report.results import read_run


def write_manifest(run: Path, stage: str, key_parts: dict[str, Any]) -> None:
    (run / stage).mkdir(parents=True)
    manifest = {"stage": stage, "seconds": 1.0, "key_parts": key_parts, "result": {}}
    (run / stage / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("part", ["settings", "sources"])
def test_a_baseline_from_before_is_not_of_a_fine_tuned_run(part: str, tmp_path: Path) -> None:
    write_manifest(tmp_path, "baseline", {})
    write_manifest(tmp_path, "prune", {part: {"model": "m"}})
    run = read_run(tmp_path)
    assert run.baseline is None and "baseline" not in run.stages


def test_a_run_with_a_baseline_keeps_it(tmp_path: Path) -> None:
    write_manifest(tmp_path, "baseline", {"settings": {"model": "m"}})
    write_manifest(tmp_path, "prune", {"settings": {"prune": {}}, "sources": {"data": "d"}})
    run = read_run(tmp_path)
    assert run.baseline is not None and "baseline" in run.stages
