import csv
import io

import pytest

from profiles.comparing.comparison import compare_latency
from profiles.comparing.profile_result import ProfileResult
from profiles.comparing.result_tables import to_csv, to_markdown
from profiles.measuring.measure_config import ProfileConfig
from tests.profiles.fake_runners import FakeClock, FakeRunner, noisy


@pytest.fixture(scope="module")
def result() -> ProfileResult:
    clock = FakeClock()
    config = ProfileConfig(batch_sizes=(1, 8), length=16, min_samples=16, min_seconds=0.1)
    runners = (FakeRunner(clock, noisy(took, seed=1)) for took in (0.02, 0.01))
    with pytest.MonkeyPatch.context() as patch:  # a busy machine would have no intervals
        patch.setattr("profiles.comparing.comparison.find_other_fraction", lambda *_: 0.0)
        return compare_latency(*runners, config, clock=clock)


def test_csv_has_the_figures_of_the_result(result: ProfileResult) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(result))))
    assert [(r["batch"], r["model"]) for r in rows] == [
        ("1", "dense"), ("1", "pruned"), ("8", "dense"), ("8", "pruned"),
    ]  # fmt: skip
    assert float(rows[1]["median_ms"]) == result.cases[0].pruned.median_ms
    assert float(rows[3]["speedup"]) == result.cases[1].speedup.ratio
    assert rows[3]["verdict"] == "faster" and rows[2]["verdict"] == ""
    withheld = result.cases[0].dense.p90_ms is None
    assert (rows[0]["p90_ms"] == "") is withheld


def test_markdown_has_a_row_a_case_its_place_and_its_doubts(result: ProfileResult) -> None:
    text = to_markdown(result)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 3 and "| 8 | 16 | " in rows[2] and "| faster" in rows[2]
    assert result.environment["cpu"] in text
    for case in result.cases:
        for note in case.notes:
            assert note in text
