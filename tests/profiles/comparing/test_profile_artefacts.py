"""`nirvana profile A B` of two kinds: real torch and ONNX Runtime, a stand-in for an engine."""

import csv
import json
import sys
from pathlib import Path

import onnx
import pytest
import torch

from nirvana_deploy import sweep
from nirvana_deploy.cli import main
from nirvana_deploy.profile_summary import describe_profile
from profiles.comparing.profile_artefacts import profile_artefacts
from profiles.comparing.profile_result import ProfileResult
from profiles.comparing.result_tables import to_csv, to_markdown
from profiles.measuring.measure_config import ProfileConfig, SweepConfig
from pruning.checkpoints.checkpoint import save_pruned
from pruning.cutting.repack import repack
from pruning.errors import NirvanaError
from tests.exporters.engines.fake_tensorrt import (
    last_engine,
    make_flavour,
    stand_in_for_gpu,
    write_fake_engine,
)
from tests.profiles.fake_runners import VOCAB, make_encoder, save_encoder
from tests.profiles.tiny_decoder import save_decoder
from tests.pruning.tiny_models import make_tiny, uneven_plan

QUICK = {
    "batch_sizes": (2,),
    "length": 4,
    "warmup_seconds": 0.0,
    "min_seconds": 0.0,
    "max_seconds": 20.0,
    "vocab_size": VOCAB,
    "num_threads": 1,
    "min_samples": 8,
}
FLAGS = [
    "--length=4", "--warmup_seconds=0", "--min_seconds=0", "--max_seconds=20",
    f"--vocab_size={VOCAB}", "--num_threads=1", "--min_samples=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    dense = make_tiny("llama", num_hidden_layers=2)
    folder = tmp_path_factory.mktemp("llama") / "checkpoint"
    save_pruned(repack(dense, uneven_plan(dense)), folder)
    return str(folder)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "tensorrt", make_flavour("tensorrt"))
    stand_in_for_gpu(monkeypatch)
    bounds = dict.fromkeys(("input_ids", "attention_mask"), ((1, 2), (2, 8), (4, 16)))
    return str(write_fake_engine(tmp_path / "engine", make_encoder(), [bounds], "tensorrt"))


def test_a_checkpoint_and_a_graph_generate(llama: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    graph = save_decoder(tmp_path / "model.onnx")
    model = onnx.load(graph)  # with the checkpoint's inputs
    positions = onnx.helper.make_tensor_value_info("position_ids", 7, ["batch", "sequence"])
    model.graph.input.append(positions)
    onnx.save(model, graph)
    result = profile_artefacts(llama, str(tmp_path), ProfileConfig(**QUICK, generate=3))
    torch.set_num_threads(threads)
    stored = result.to_json()
    assert json.loads(json.dumps(stored)) == stored
    ProfileResult.from_json(stored)
    kinds = {name: of["kind"] for name, of in stored["method"]["artefacts"].items()}
    assert kinds == {"dense": "checkpoint", "pruned": "onnx"}
    assert stored["method"]["dense"]["runtime"] == "torch"
    for name in ("dense", "pruned"):
        assert stored["method"][name]["semantics"].startswith("ours: end to end from the caller")
        assert stored["memory"][name]["host_peak_mib"] is not None
        assert stored["generations"][0][name]["inter_token"]["num_samples"] >= 8
    (case,) = stored["cases"]
    assert any("the ratio is of both, model and run-time" in note for note in case["notes"])
    rows = list(csv.DictReader(to_csv(result).splitlines()))
    assert [row["generated_tokens"] for row in rows] == ["", "", "3", "3"]
    assert rows[0]["artefact"] == llama and rows[3]["semantics"].startswith("ours")
    assert float(rows[3]["inter_token_ms"]) > 0 and rows[3]["speedup"]
    assert "| 2 | 4 | 3 | " in to_markdown(result)


def test_an_engine_tells_where_its_time_goes(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, out = save_encoder(tmp_path / "model.onnx"), tmp_path / "figures.json"
    command = ["profile", str(graph), engine, "--batch_sizes=2", "--out", str(out), *FLAGS]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "of that, pruned h2d 0.500, gpu_compute 2.000, d2h 0.250, enqueue" in printed
    stored = json.loads(out.read_text())
    ProfileResult.from_json(stored)
    (case,) = stored["cases"]
    assert case["dense"]["parts"] == {}
    assert case["pruned"]["parts"]["gpu_compute_ms"]["median_ms"] == 2.0
    described = stored["method"]["pruned"]
    assert (described["runtime"], described["device"]) == ("tensorrt", "fake device")
    assert "the two latencies have different semantics: see method" in case["notes"]


def test_an_engine_whose_gpu_is_lost_leaves_a_partial_result(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters.engines.engine_runner import EngineRunner

    really_bind, bound = EngineRunner.bind, []

    def bind(self: EngineRunner, *args, **kwargs):
        bound.append(really_bind(self, *args, **kwargs))
        if len(bound) == 3:  # the first was for its memory, the second is batch 1
            last_engine().contexts[-1].fail_from = 30
        return bound[-1]

    monkeypatch.setattr(EngineRunner, "bind", bind)
    graph, out = save_encoder(tmp_path / "model.onnx"), tmp_path / "figures.json"
    command = ["profile", str(graph), engine, "--batch_sizes=1,2", "--out", str(out), *FLAGS]
    assert main([*command, "--min_samples=64"]) == 1
    assert "PARTIAL ended by: batch 2 x 4: The engine failed" in " ".join(
        capsys.readouterr().out.split()
    )
    stored = json.loads(out.read_text())
    ProfileResult.from_json(stored)
    assert "CUDA error 719" in stored["partial"]
    whole, cut = stored["cases"]
    assert whole["pruned"]["num_samples"] >= 64 > cut["pruned"]["num_samples"] > 0
    assert any(note.startswith("PARTIAL, ") for note in cut["notes"])


def test_an_engine_does_not_generate_here(engine: str) -> None:
    with pytest.raises(NirvanaError, match="run by tensorrt, in which no text is generated here"):
        profile_artefacts(engine, engine, ProfileConfig(**QUICK, generate=2))


def test_a_folder_of_several_graphs_is_refused(tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder_model.onnx")
    with pytest.raises(NirvanaError, match=r"has encoder_model\.onnx: expected model\.onnx"):
        profile_artefacts(str(tmp_path), str(tmp_path), ProfileConfig(**QUICK))


def test_what_torch_cannot_run_is_said(llama: str) -> None:
    config = ProfileConfig(**{**QUICK, "vocab_size": 10_000})
    with pytest.raises(NirvanaError, match=r"torch cannot run dense on input_ids \[2, 4\].*vocab"):
        profile_artefacts(llama, llama, config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_checkpoint_on_a_gpu_that_is_not_there_is_refused(llama: str) -> None:
    with pytest.raises(NirvanaError, match=r"provider cuda\), and torch finds none here"):
        profile_artefacts(llama, llama, ProfileConfig(**QUICK, provider="cuda"))


def test_modes_are_known() -> None:
    with pytest.raises(NirvanaError, match="torch_mode must be one of eager, sdpa, compile"):
        ProfileConfig(torch_mode="jit")


def test_both_are_measured_under_load(tmp_path: Path) -> None:
    graph = str(save_encoder(tmp_path / "model.onnx"))
    config = ProfileConfig(**QUICK, callers=(1, 3), rates_per_s=(500.0,))
    result = profile_artefacts(graph, graph, config)
    points = [(p.model, p.num_callers, p.offered_per_s, p.num_requests) for p in result.loads]
    assert points == [
        (model, *load)
        for model in ("dense", "pruned")
        for load in ((1, None, 8), (3, None, 24), (1, 500.0, 8))
    ]
    assert all(point.achieved_per_s > 0 and point.p90_ms is None for point in result.loads)
    stored = result.to_json()
    ProfileResult.from_json(stored)
    rows = list(csv.DictReader(to_csv(result).splitlines()))
    assert [row["num_callers"] for row in rows] == ["", "", *(["1", "3", "1"] * 2)]
    assert [row["overloaded"] in ("True", "False") for row in rows] == [False, False, *[True] * 6]
    assert "| pruned | 3 | as answered | " in to_markdown(result)
    assert "pruned under 500 requests/s" in dict(describe_profile(stored))


def test_a_checkpoint_is_swept_as_it_is_profiled(llama: str) -> None:
    config = SweepConfig(
        batch_sizes=(1, 2), callers=(2,), length=4, vocab_size=9, num_rounds=2, num_requests=2
    )
    result = sweep(llama, config, name="dense")
    assert (result.model, result.method["runtime"]) == ("dense", "torch")
    assert [point.batch for point in result.batches] == [1, 2]
    assert [load.latency_ms.size for load in result.callers] == [4]


def test_loads_that_are_none_are_refused() -> None:
    with pytest.raises(NirvanaError, match=r"callers must be 1 or more and differ .* got 2, 2"):
        ProfileConfig(callers=(2, 2))
    with pytest.raises(NirvanaError, match=r"rates_per_s must be above 0, got 0\.0"):
        ProfileConfig(rates_per_s=(0.0,))
