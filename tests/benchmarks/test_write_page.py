"""The page of benchmarks is what the results say."""

import json

import pytest
from write_page import PAGE, describe_shortfall, read_results, write_page


def make_bar(value, target, direction="at_most"):
    met = value <= target if direction == "at_most" else value >= target
    return {"name": "x", "value": value, "target": target, "direction": direction, "met": met}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == write_page(read_results()), (
        "run `python benchmarks/write_page.py` after a benchmark"
    )


@pytest.mark.parametrize(
    ("bar", "said"),
    [
        (make_bar(1.5, 1.0), "**by 50 %**"),
        (make_bar(0.978, 1.0, "at_least"), "**by 2.2 %**"),
        (make_bar(3, 0), "**by 3**"),
    ],
)
def test_a_shortfall_is_in_per_cent_of_the_target(bar, said) -> None:
    assert describe_shortfall(bar) == said


def test_what_fell_short_has_a_column(tmp_path) -> None:
    results = {
        "new_thing": {"date": "2026-01-01", "hardware": "a machine", "bars": [make_bar(2, 1)]},
        "quickstart": {"bars": [{**make_bar(0.5, 1), "name": "|a - b|"}]},
        "bare": {"bars": []},
    }
    for name, result in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    page = write_page(read_results(tmp_path))
    assert "| x | 2 | at most 1 | **by 100 %** |" in page
    assert "| \\|a - b\\| | 0.5 | at most 1 |  |" in page
    assert "1 of 2 figures met their target; 1 fell short. Results without targets: `bare`." in page
    assert page.index("## Quickstart") < page.index("## New thing")
