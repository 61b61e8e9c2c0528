import numpy as np
import pytest

from profiles.measuring.sweep import sweep_batches, sweep_callers
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import FakeClock, FakeRunner


class BatchRunner(FakeRunner):
    """Takes 4 ms a call and 1 ms a row."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        super().__init__(self.clock, lambda _run, _now: 0.0)

    def bind(self, inputs):
        rows = len(inputs["x"])
        self.bound.append(inputs)

        def call():
            self.clock.seconds += 0.004 + 0.001 * rows
            return {}

        return call


def make_inputs(batch: int) -> dict[str, np.ndarray]:
    return {"x": np.zeros(batch)}


def test_throughput_counts_rows() -> None:
    runner = BatchRunner()
    points = sweep_batches(runner, make_inputs, (1, 4, 16), clock=runner.clock)
    assert [point.median_ms for point in points] == pytest.approx([5, 8, 20])
    assert [point.rows_per_s for point in points] == pytest.approx([200, 500, 800])


def test_each_caller_has_buffers_of_its_own() -> None:
    runner = BatchRunner()
    results = sweep_callers(runner, make_inputs, (1, 3), batch=2, num_requests=5)
    assert [result.num_callers for result in results] == [1, 3]
    assert [result.latency_ms.size for result in results] == [5, 15]
    assert len(runner.bound) == 3 and len({id(inputs) for inputs in runner.bound}) == 3


@pytest.mark.parametrize("counts", [(), (0,), (2, 2)], ids=["none", "zero", "twice"])
def test_counts_that_are_none_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(NirvanaError, match="of 1 or more, none twice, got"):
        sweep_batches(BatchRunner(), make_inputs, counts)
    with pytest.raises(NirvanaError, match="A sweep needs numbers of callers"):
        sweep_callers(BatchRunner(), make_inputs, counts)
