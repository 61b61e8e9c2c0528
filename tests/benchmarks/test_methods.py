"""The comparison's main loop, with pruning stood in for: order, resumption, what is written."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, on a model that does not exist, writing into a folder of its own."""
    import methods

    (tmp_path / "key.txt").write_text("key")
    (tmp_path / "dense.json").write_text(json.dumps({"loss": 1.0}))
    monkeypatch.setattr(methods, "make_models", lambda names: dict.fromkeys(names, tmp_path))
    monkeypatch.setattr(methods, "CELLS", tmp_path / "cells.jsonl")
    monkeypatch.setattr(methods, "RESULT", tmp_path / "result.json")
    return methods


def run(methods: Any, monkeypatch: pytest.MonkeyPatch, stop_after: int, *words: str) -> list[Any]:
    """Run the script with its words; return the cells that it measured."""
    measured: list[Any] = []

    def measure(subject: Any, *asked: Any) -> dict[str, Any]:
        if len(measured) == stop_after:
            raise KeyboardInterrupt
        measured.append((subject.name, *asked))
        return {"loss_increase": 0.1, "kept_fraction": 0.5, "seconds": 1.0, "note": ""}

    monkeypatch.setattr(methods, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["methods.py", "--quick", *words])
    try:
        methods.main()
    except KeyboardInterrupt:
        measured.append("stopped")
    return measured


def test_a_stopped_run_goes_on(methods: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--models", "encoder", "decoder", "--methods", "ours", "gates", "--steps", "0", "4")
    first = run(methods, monkeypatch, 3, *words)
    assert first.pop() == "stopped"
    rest = run(methods, monkeypatch, 99, *words)
    asked = [(m, method, 0.5, 0, 0) for m in ("encoder", "decoder") for method in ("ours",)]
    asked += [
        (m, method, 0.5, 0, 4) for m in ("encoder", "decoder") for method in ("ours", "gates")
    ]
    assert first + rest == asked
    assert run(methods, monkeypatch, 99, *words) == []


def test_what_looks_at_no_data_is_measured_once_for_all_seeds(methods: Any) -> None:
    folder = methods.CELLS.parent
    subject = methods.Subject(name="encoder", folder=folder, num_sequences=8)

    def keys(method: str, steps: int) -> int:
        return len({methods._make_key(subject, method, 0.5, seed, steps) for seed in (0, 1, 2)})

    assert keys("magnitude-uniform", 0) == 1
    assert keys("magnitude-uniform", 150) == 3
    assert keys("llm-pruner-taylor", 0) == 3


def test_a_method_that_fails_says_why_in_its_cell(methods: Any) -> None:
    folder = methods.CELLS.parent
    subject = methods.Subject(name="encoder", folder=folder / "nothing", num_sequences=8)
    assert "nothing" in methods.measure(subject, "magnitude-uniform", 0.5, 0, 0)["failed"]
