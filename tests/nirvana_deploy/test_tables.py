"""Tables for people, JSON for programs, of the same facts."""

import json
import sys
from types import SimpleNamespace

import pytest

from nirvana_deploy.cli import main
from pruning.inspection import LayerRow, ModelStructure

STRUCTURE = ModelStructure(
    model_type="bert",
    num_parameters=1_000_000,
    block_parameters=470_000,
    rows=(
        LayerRow(
            layer=0,
            num_heads=12,
            head_dim=32,
            num_neurons=1536,
            attention_parameters=150_000,
            mlp_parameters=180_000,
        ),
        LayerRow(
            layer=1,
            num_heads=None,
            head_dim=32,
            num_neurons=704,
            attention_parameters=0,
            mlp_parameters=140_000,
        ),
    ),
)


@pytest.fixture(autouse=True)
def known_model(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(inspect_model=lambda _: STRUCTURE)
    monkeypatch.setitem(sys.modules, "pruning.inspection", stand_in)


def test_inspect_prints_a_row_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "some/model"]) == 0
    out = capsys.readouterr().out
    title = "some/model: bert, 1,000,000 parameters, 470,000 (47%) in prunable blocks"
    assert out.splitlines()[0] == title
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    rows = [row for row in cells if row]
    assert rows == [
        ["0", "12", "32", "1,536", "150,000", "180,000"],
        ["1", "dropped", "32", "704", "0", "140,000"],
    ]


def test_inspect_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "some/model", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["model"] == "some/model"
    assert data["rows"][1]["num_heads"] is None
    assert data["block_parameters"] == 470_000


def test_results_are_shown_a_line_a_part() -> None:
    from nirvana_deploy.verbs import _show

    shape = {"min": [1, 16], "max": [32, 512]}
    assert _show({"ids": shape, "mask": shape}) == (
        "ids min 1 x 16, max 32 x 512\nmask min 1 x 16, max 32 x 512"
    )
    assert _show([{"batch": 1, "difference": 7.45e-8}, {"batch": 2, "difference": 0.5}]) == (
        "batch 1, difference 7.45e-08\nbatch 2, difference 0.5"
    )
    assert _show(["sm89", "sm120"]) == "sm89, sm120"
    assert (_show(None), _show(True), _show(70418862)) == ("null", "true", "70418862")
