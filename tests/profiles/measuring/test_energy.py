"""Energy of calls that take 10 ms at 300 W, by a stand-in for NVML on a made-up clock."""

from collections.abc import Callable

import pytest

from profiles.measuring.nvml import EnergyReading, measure_energy, open_gpu
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import FakeClock
from tests.profiles.measuring.fake_nvml import install_nvml


def measure(
    monkeypatch: pytest.MonkeyPatch, count: Callable[[FakeClock], int] | None
) -> EnergyReading | None:
    clock = FakeClock()
    install_nvml(monkeypatch, millijoules=None if count is None else lambda: count(clock))

    def call() -> dict[str, object]:
        clock.seconds += 0.01
        return {}

    with open_gpu(None) as counters:
        assert counters is not None
        return measure_energy(call, counters, clock=clock)


def test_joules_a_call_are_power_times_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(monkeypatch, lambda clock: int(clock.seconds * 300_000))
    assert found is not None
    assert found.joules_per_call == pytest.approx(3.0)
    assert found.mean_watts == pytest.approx(300.0)
    assert found.num_calls == 200 and found.seconds >= 2.0 and found.idle_subtracted is False


def test_a_gpu_that_does_not_count_has_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(monkeypatch, None) is None


@pytest.mark.parametrize(
    "count",
    [lambda clock: -int(clock.seconds), lambda _: 5, lambda clock: int(clock.seconds * 1e9)],
    ids=["back", "still", "jumped"],
)
def test_a_counter_that_cannot_be_is_an_error(monkeypatch: pytest.MonkeyPatch, count) -> None:
    with pytest.raises(NirvanaError, match=r"The GPU counted .* which cannot be"):
        measure(monkeypatch, count)


def test_a_counter_that_is_lost_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = install_nvml(monkeypatch)

    def lose(_handle: int) -> int:
        raise nvml.NVMLError("GPU is lost")

    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", lose)
    with open_gpu("GPU-1") as counters, pytest.raises(NirvanaError, match=r"gone .* GPU is lost"):
        counters.read_energy_joules()


def test_of_several_gpus_the_named_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, num_gpus=2)
    for uuid, found in (("GPU-1", True), (None, False), ("MIG-x", False)):
        with open_gpu(uuid) as counters:
            assert (counters is not None) is found


def test_without_a_driver_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = install_nvml(monkeypatch)

    def refuse() -> None:
        raise nvml.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(nvml, "nvmlInit", refuse)
    with open_gpu(None) as counters:
        assert counters is None
