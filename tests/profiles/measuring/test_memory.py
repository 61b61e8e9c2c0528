"""Memory that is really taken, and counters that are made up."""

from pathlib import Path

import numpy as np
import pytest

from profiles.measuring.memory import watch_memory
from tests.profiles.measuring.fake_nvml import install_nvml


def test_what_was_taken_and_given_back_is_seen() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's /proc/self/clear_refs")
    np.ones(60 * 2**20 // 8)  # before the watch: not in the growth
    with watch_memory() as growth:
        np.ones(40 * 2**20 // 8)
    assert growth.host_peak_mib == pytest.approx(40, abs=6)
    with watch_memory() as growth:
        pass
    assert growth.host_peak_mib < 4


def test_the_growth_of_a_gpus_memory_is_that_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter((2**30, 2**30 + 300 * 2**20))
    install_nvml(monkeypatch, used_bytes=lambda: next(used))
    with watch_memory() as growth:
        pass
    assert growth.gpu_mib == 300.0
    assert growth.to_json()["gpu_mib"] == 300.0


def test_where_nothing_is_told_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, num_gpus=2)
    with watch_memory(root=tmp_path) as growth:
        pass
    assert growth.host_peak_mib is None and growth.gpu_mib is None
