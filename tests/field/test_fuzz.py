"""A small part of the fuzz campaign: damaged files are refused in words or read as they are."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fuzz
from fuzz_mutations import mutate_json, mutate_onnx
from fuzz_readers import READERS

# Readers that need no import of seconds.
_QUICK = {
    *("recipe", "one-shot recipe", "plan", "engine.json", "package.json", "text.json"),
    *("run.json", "stage manifest", "stage key", "stage file", "latency table", "profile"),
    *("scoring run", "target", "dense index"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    fuzz.make_folders(folder / "base", with_graphs=False)
    return folder


def test_no_damaged_file_ends_in_a_python_error_or_is_taken_wrongly(work: Path) -> None:
    seeds = [seed for seed in range(400) if fuzz.draw_reader(seed).name in _QUICK]
    found = {seed: fuzz.run_input(work / "base", seed, work / "one") for seed in seeds[:250]}
    bad = {
        f"{seed} {fuzz.draw_reader(seed).name}": what
        for seed, what in found.items()
        if what[0] not in ("refused", "accepted")
    }
    assert not bad
    assert {kind for kind, _ in found.values()} == {"refused", "accepted"}


def test_the_campaign_counts_a_wrong_success_and_a_python_error(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = next(n for n in range(400) if fuzz.draw_reader(n).name == "plan")
    reader = fuzz.draw_reader(seed)
    for read, expected in (
        (lambda _: "taken", ("wrong", "taken")),
        (lambda _: None, ("accepted", "")),
    ):
        broken = type(reader)(**{**vars(reader), "read": read})
        monkeypatch.setattr(fuzz, "READERS", [broken])
        assert fuzz.run_input(work / "base", seed, work / "one") == expected
    broken = type(reader)(**{**vars(reader), "read": lambda _: 1 / 0})
    monkeypatch.setattr(fuzz, "READERS", [broken])
    kind, detail = fuzz.run_input(work / "base", seed, work / "one")
    assert kind == "raw"
    assert "ZeroDivisionError" in detail


def test_mutations_follow_their_seed_and_change_the_file(work: Path) -> None:
    plan = (work / "base" / "plan" / "plan.json").read_bytes()
    weight = onnx.numpy_helper.from_array(np.ones((4, 4), "float32"), "w")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], [weight]))
    for mutate, content in ((mutate_json, plan), (mutate_onnx, graph.SerializeToString())):
        made = [mutate(content, random.Random(seed)) for seed in range(20)]
        assert made == [mutate(content, random.Random(seed)) for seed in range(20)]
        assert len(set(made)) > 10
    assert sum(reader.share for reader in READERS) > 100
    assert json.loads(plan)["version"] == 2
