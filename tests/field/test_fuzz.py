"""A small part of the fuzz campaign: damaged files are refused in words or read as they are."""

import contextlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fuzz
import fuzz_graphs
from fuzz_mutations import mutate_json, mutate_onnx, mutate_plan, mutate_safetensors
from fuzz_readers import READERS, refit
from safetensors.torch import save_file

from exporters.graphs.graph_structure import inspect_onnx
from exporters.surgeon.prune_onnx import prune_onnx
from nirvana_deploy import draw_report
from nirvana_deploy.api.engines import _read_inputs
from nirvana_deploy.serving.text_model_file import open_tokenizer
from pruning.checkpoints.config_file import list_architectures
from pruning.checkpoints.file_hash import check_inside
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from tests.exporters.surgeon.dense_graphs import export_torchscript
from tests.pruning.tiny_models import make_tiny, uneven_plan

# Readers that need no import of seconds.
_QUICK = {
    *("recipe", "one-shot recipe", "plan", "engine.json", "package.json", "text.json"),
    *("run.json", "stage manifest", "stage key", "stage file", "latency table"),
    *("scoring run", "scores", "damage curves", "calibration", "target", "dense index"),
    *("tokenizer", "tokenizer config", "special tokens", "text's config", "HTTP body"),
    *("HTTP body, binary", "build log", "layers", "engine's inputs", "report of a sweep"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    fuzz.make_folders(folder / "base", with_graphs=False)
    return folder


def test_no_damaged_file_ends_in_a_python_error_or_is_taken_wrongly(work: Path) -> None:
    seeds = [seed for seed in range(900) if fuzz.draw_reader(seed).name in _QUICK]
    assert {fuzz.draw_reader(seed).name for seed in seeds} == _QUICK
    found = {seed: fuzz.run_input(work / "base", seed, work / "one") for seed in seeds[:400]}
    assert not _list_bad(found)
    assert {kind for kind, _ in found.values()} == {"refused", "accepted"}


def _list_bad(found: dict[int, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {
        f"{seed} {fuzz.draw_reader(seed).name}": what
        for seed, what in found.items()
        if what[0] not in ("refused", "accepted", fuzz_graphs.UNJUDGED)
    }


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of another exporter than the campaign's, beside its plan."""
    work = tmp_path_factory.mktemp("graphs")
    folder = work / "base" / "graph"
    folder.mkdir(parents=True)
    model = make_tiny("bert", "eager")
    export_torchscript(model, folder / "model.onnx")
    uneven_plan(model).save(folder / "plan.json")
    return work


def test_no_damaged_graph_ends_in_a_python_error_or_is_cut_wrongly(
    graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Foreign graphs are tried in a process each, of a second.
    for module in ("exporters.graphs.trial_session", "nirvana_deploy.serving.onnx_signature"):
        monkeypatch.setattr(f"{module}.require_loadable", lambda path: None)
    names = ("surgeon", "inspect", "build", "package", "profile graph")
    readers = [reader for reader in READERS if reader.name in names]
    assert len(readers) == len(names)
    monkeypatch.setattr(fuzz, "READERS", readers)
    found = {seed: fuzz.run_input(graphs / "base", seed, graphs / "one") for seed in range(110)}
    assert not _list_bad(found)
    kinds = {(fuzz.draw_reader(seed).name, kind) for seed, (kind, _) in found.items()}
    assert {(name, kind) for name in names for kind in ("refused", "accepted")} <= kinds


def test_a_transpose_that_permutes_nothing_makes_no_heads_of_another_size(
    graphs: Path, tmp_path: Path
) -> None:
    """Its shape would be of other sizes, and 26 units of a weight with 32 be called heads."""
    model = onnx.load(graphs / "base" / "graph" / "model.onnx")
    whole = inspect_onnx(graphs / "base" / "graph" / "model.onnx")
    attention = next(row for row in whole.rows if row.kind == "attention")
    width = attention.num_heads * attention.head_dim
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type != "Transpose":
                continue
            perm = list(attribute.ints)
            for damaged in ([0, 0], [0, 1, 2, 9]):
                attribute.ints[:] = damaged
                onnx.save(model, tmp_path / "model.onnx")
                with contextlib.suppress(NirvanaError):
                    for row in inspect_onnx(tmp_path / "model.onnx").rows:
                        assert row.kind == "mlp" or row.num_heads * row.head_dim == width
            attribute.ints[:] = perm


def test_units_that_reach_the_bias_of_a_norm_are_refused(graphs: Path, tmp_path: Path) -> None:
    model = onnx.load(graphs / "base" / "graph" / "model.onnx")
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    sums = {name: node for node in model.graph.node for name in node.input}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    product = next(node for node in products if shapes.get(node.input[1]) == (32, 32))
    query = sums[product.output[0]].output[0]
    norm = [node for node in model.graph.node if node.op_type == "LayerNormalization"][-1]
    norm.input[2] = query
    onnx.save(model, tmp_path / "model.onnx")
    plan = PruningPlan.load(graphs / "base" / "graph" / "plan.json")
    with pytest.raises(NirvanaError, match="reach an input of it that should be a constant"):
        prune_onnx(tmp_path / "model.onnx", plan, tmp_path / "cut.onnx")
    assert not (tmp_path / "cut.onnx").exists()


def test_a_wrong_cut_is_found(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with the masked graph can fail: here the plan is another than what is cut."""
    monkeypatch.setattr("exporters.graphs.trial_session.require_loadable", lambda path: None)
    folder = graphs / "other"
    shutil.copytree(graphs / "base" / "graph", folder)
    assert fuzz_graphs.cut_graph(folder) is None
    plan = json.loads((folder / "plan.json").read_text())
    plan["layers"][1]["kept_neurons"] = [0, 5, 7, 11, 41]
    cut = folder / "cut.onnx"
    monkeypatch.setattr("exporters.surgeon.prune_onnx.prune_onnx", lambda *_: cut)
    (folder / "plan.json").write_text(json.dumps(plan))
    assert "the cut's logits are off by" in str(fuzz_graphs.cut_graph(folder))


def test_what_hangs_or_dies_is_counted_and_the_rest_still_read(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(folder: Path) -> None:
        seed = int((folder / "seed").read_text())
        while seed == 1:
            pass
        if seed == 2:
            os._exit(1)

    def run_input(base: Path, seed: int, folder: Path) -> tuple[str, str]:
        folder.mkdir(exist_ok=True)
        (folder / "seed").write_text(str(seed))
        read(folder)
        return "accepted", ""

    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    monkeypatch.setattr(fuzz, "run_input", run_input)
    campaign = fuzz.Campaign(work, 0, [0, 1, 2, 3])
    campaign.run(time.monotonic() + 600)
    kinds = [campaign.found[seed][0] for seed in range(4)]
    assert kinds == ["accepted", "hang", "crash", "accepted"]


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


def test_scores_without_a_hash_or_of_another_model_are_refused(work: Path, tmp_path: Path) -> None:
    from pruning.scoring.scoring_run import load_run

    def damage(name: str, change: Callable[[Path, dict[str, Any]], None], match: str) -> None:
        folder = tmp_path / name
        shutil.copytree(work / "base" / "scores", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        change(folder, manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        if manifest["files"].get("scores.safetensors"):
            refit(folder, "manifest.json")
        with pytest.raises(NirvanaError, match=match):
            load_run(folder)

    scores = "scores.safetensors"
    damage("a", lambda _, m: m["files"].pop(scores), f"has no hash of {scores}, so that nothing")
    damage("b", lambda f, _: (f / scores).write_bytes(b"x" * 20), "Cannot read the scores")
    small = {"0.mlp": torch.ones(3)}
    damage("c", lambda f, _: save_file(small, f / scores), "the run's model has 4 units there")
    ids = {"x.input_ids": torch.ones(1, 2)}
    about = {"format": "nirvana-calibration-1", "labels": "text"}
    damage(
        "d",
        lambda f, _: save_file(ids, f / "calibration.safetensors", metadata=about),
        "names its tensors like 0.input_ids, found 'x.input_ids'",
    )


def test_tokenizers_inputs_and_names_that_libraries_refuse_are_refused_in_words(
    tmp_path: Path,
) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(NirvanaError, match="cannot be read as a tokenizer"):
        open_tokenizer(tmp_path / "tokenizer.json")
    np.savez(tmp_path / "inputs.npz", x=np.ones(9))
    content = (tmp_path / "inputs.npz").read_bytes()
    for end in range(20, len(content), 9):
        (tmp_path / "inputs.npz").write_bytes(content[:end])
        with pytest.raises(NirvanaError, match=r"no \.npz file of plain arrays"):
            _read_inputs(tmp_path / "inputs.npz")
    for name in ("a" * 300, "é" * 200, "a\0b", "/".join(["a" * 200] * 20)):
        with pytest.raises(NirvanaError, match="names a file that cannot be there"):
            check_inside(name, tmp_path)
    for name in ("\ud800", "a\0b", "../x", ""):
        with pytest.raises(NirvanaError, match="in `architectures`, which is no class name"):
            list_architectures(SimpleNamespace(architectures=[name]))


def test_a_report_draws_no_billion_heads(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "base" / "stored", tmp_path / "run")
    path = tmp_path / "run" / "prune" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["result"]["layers"][1]["num_heads"] = 10**9
    path.write_text(json.dumps(manifest))
    page = draw_report([tmp_path / "run"], out=tmp_path / "page.html")
    assert "heads are too many to draw" in page.read_text()


def test_mutations_follow_their_seed_and_change_the_file(work: Path) -> None:
    plan = (work / "base" / "plan" / "plan.json").read_bytes()
    weight = onnx.numpy_helper.from_array(np.ones((4, 4), "float32"), "w")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [onnx.helper.make_tensor_value_info(name, 1, ("batch", 4)) for name in "xy"]
    graph = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]))
    weights = (work / "base" / "whole" / "model.safetensors").read_bytes()
    for mutate, content in (
        (mutate_json, plan),
        (mutate_plan, plan),
        (mutate_safetensors, weights),
        (mutate_onnx, graph.SerializeToString()),
    ):
        made = [mutate(content, random.Random(seed)) for seed in range(20)]
        assert made == [mutate(content, random.Random(seed)) for seed in range(20)]
        assert len(set(made)) > 10
    before = [mutate_json(plan, random.Random(seed)) for seed in range(300)]
    assert before == [mutate_json(plan, random.Random(seed)) for seed in range(300)]
    assert len(READERS) > 60
    assert json.loads(plan)["version"] == 2
