"""Tables for people, JSON for programs, of the same facts."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nirvana_deploy.cli import main
from pruning.cutting.inspection import LayerRow, ModelStructure
from pruning.cutting.proof import Proof
from pruning.cutting.proof_checks import Check

ROW = LayerRow(
    stack="encoder",
    layer=0,
    num_heads=12,
    num_kv_heads=4,
    head_dim=32,
    num_cross_heads=None,
    num_neurons=1536,
    attention_parameters=150_000,
    cross_attention_parameters=0,
    mlp_parameters=180_000,
)
DROPPED = replace(
    ROW, layer=1, num_heads=None, num_kv_heads=None, num_neurons=704, attention_parameters=0
)
STRUCTURE = ModelStructure(
    model_type="bert",
    architecture="BertModel",
    inferred_from="",
    num_parameters=1_000_000,
    block_parameters=470_000,
    rows=(ROW, DROPPED),
)
CHECK = Check(plan="a plan", what="outputs", passed=True, max_abs_difference=2.5e-7, note="x")
FAILED = Check(plan="a plan", what="greedy tokens", passed=False, note="the tokens differ")


@pytest.fixture(autouse=True)
def known_model(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(
        inspect_model=lambda _: STRUCTURE, prove_model=None, read_current_plan=None
    )
    monkeypatch.setitem(sys.modules, "pruning.cutting.inspection", stand_in)


def test_inspect_prints_a_row_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "some/model"]) == 0
    out = capsys.readouterr().out
    title = "some/model: bert (BertModel, encoder), 1,000,000 parameters, 470,000 (47%) in"
    assert out.splitlines()[0] == f"{title} prunable blocks"
    assert _read_rows(out) == [
        ["0", "12", "4", "32", "1,536", "150,000", "180,000"],
        ["1", "dropped", "dropped", "32", "704", "0", "180,000"],
    ]


def test_an_encoder_decoder_shows_its_stacks_and_cross_attention(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decoder = replace(ROW, stack="decoder", num_cross_heads=5, cross_attention_parameters=9_000)
    both = replace(STRUCTURE, rows=(ROW, decoder, replace(decoder, num_cross_heads=None)))
    monkeypatch.setattr(sys.modules["pruning.cutting.inspection"], "inspect_model", lambda _: both)
    main(["inspect", "some/model"])
    out = capsys.readouterr().out
    assert "encoder and decoder" in out
    rows = [(row[0], row[3], row[7]) for row in _read_rows(out)]
    assert rows == [
        ("encoder 0", "", ""),
        ("decoder 0", "5", "9,000"),
        ("decoder 0", "dropped", "9,000"),
    ]


def test_an_inferred_wiring_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inferred = replace(STRUCTURE, model_type="ernie", inferred_from="bert")
    monkeypatch.setattr(
        sys.modules["pruning.cutting.inspection"], "inspect_model", lambda _: inferred
    )
    main(["inspect", "some/model"])
    assert "no record for ernie, its names are those of bert; proven" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("checks", "code", "last"),
    [
        ((CHECK, CHECK), 0, "Proven: 2 checks, repacked equals masked in each."),
        ((CHECK, FAILED), 1, "NOT PROVEN: 1 of 2 checks failed. Do not prune this model."),
    ],
)
def test_a_proof_is_a_table_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checks, code: int, last
) -> None:
    proof = Proof(model_type="bert", inferred_from="", checks=checks)
    stand_in = sys.modules["pruning.cutting.inspection"]
    monkeypatch.setattr(stand_in, "prove_model", lambda _: proof, raising=False)
    assert main(["inspect", "some/model", "--prove"]) == code
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == last
    assert ["a plan", "outputs", "equal", "2.5e-07", ""] in _read_rows(out)
    failed = ["a plan", "greedy tokens", "DIFFERENT", "", "the tokens differ"]
    assert (failed in _read_rows(out)) is bool(code)
    assert main(["inspect", "some/model", "--prove", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["proof"]["holds"] is not bool(code)


def _read_rows(out: str) -> list[list[str]]:
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    return [row for row in cells if row]


def test_inspect_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "some/model", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["model"] == "some/model"
    assert data["rows"][1]["num_heads"] is None
    assert data["block_parameters"] == 470_000


def test_results_are_shown_a_line_a_part() -> None:
    from nirvana_deploy.verbs.tables import _show

    shape = {"min": [1, 16], "max": [32, 512]}
    assert _show({"ids": shape, "mask": shape}) == (
        "ids min 1 x 16, max 32 x 512\nmask min 1 x 16, max 32 x 512"
    )
    assert _show([{"batch": 1, "difference": 7.45e-8}, {"batch": 2, "difference": 0.5}]) == (
        "batch 1, difference 7.45e-08\nbatch 2, difference 0.5"
    )
    assert _show(["sm89", "sm120"]) == "sm89, sm120"
    assert (_show(None), _show(True), _show(70418862)) == ("null", "true", "70418862")
