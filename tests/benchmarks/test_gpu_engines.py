"""The engines of the GPU benchmark, on stand-ins for TensorRT and a GPU."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from exporters.engines.engine_config import EngineConfig
from tests.exporters.engines.fake_tensorrt import (
    make_flavour,
    stand_in_for_gpu,
    write_fake_engine,
)
from tests.profiles.fake_runners import VOCAB, save_encoder

FLAVOUR = "tensorrt_rtx"


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Any:
    import gpu_engines

    def build(graph: Path, out: Path, config: EngineConfig) -> Any:
        assert config.flavour == FLAVOUR and config.precision == "fp16"
        bounds = dict.fromkeys(("input_ids", "attention_mask"), ((1, 1), (1, 8), (64, 512)))
        write_fake_engine(out, onnx.load(graph), [bounds], FLAVOUR)
        return SimpleNamespace(
            version="1.7.1",
            build_seconds=1.0,
            engine_size_bytes=9,
            num_attention_layers=2,
            num_fused_attentions=1,
            precision_found={"fp16": 3},
            warnings=("one is not fused",),
        )

    monkeypatch.setattr(gpu_engines, "list_flavours", lambda: {FLAVOUR: "1.7.1"})
    monkeypatch.setattr(gpu_engines, "build_engine", build)
    monkeypatch.setattr(gpu_engines, "SHAPES", ("bert-base",))
    monkeypatch.setattr(gpu_engines, "VOCAB", VOCAB)
    return gpu_engines


@pytest.fixture
def graphs(tmp_path: Path) -> Path:
    """Graphs as `gpu_graphs` leaves them; of the pruned one, logits twice what it gives."""
    import gpu_graphs

    pair = tmp_path / "graphs" / "bert-base" / "tensorrt-fp32"
    pair.mkdir(parents=True)
    ids = torch.randint(1, 9, (2, 5))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = {}
    for number, side in enumerate(gpu_graphs.SIDES):
        path = save_encoder(pair / f"{side}.onnx", seed=number)
        feeds = {name: tensor.numpy() for name, tensor in given.items()}
        (logits,) = onnxruntime.InferenceSession(path).run(None, feeds)
        expected[side] = {**given, "logits": torch.from_numpy(logits) * (number + 1)}
    torch.save(expected, pair.parent / gpu_graphs.EXPECTED)
    (pair / gpu_graphs.READY).touch()
    return tmp_path / "graphs"


def make_record(tmp_path: Path, device: str) -> Any:
    from gpu_record import PartRecord

    return PartRecord(tmp_path / "part.json", seconds=60, device=device, rehearse=True)


def test_engines_are_checked_and_timed_with_and_without_a_graph(
    engines: Any, graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, FLAVOUR, make_flavour(FLAVOUR))
    stand_in_for_gpu(monkeypatch)
    record = make_record(tmp_path, "cuda")
    engines.compare_engines(record, graphs)
    assert record.data["failed"] == record.data["not_run"] == []
    built, *timed = record.data["rows"]
    assert built["engines"]["pruned"]["fused_attentions"] == 1
    assert built["engines"]["pruned"]["warnings"] == ["one is not fused"]
    cases = engines.find_shape("bert-base", True).cases
    assert [(row["cuda_graph"], row["batch"], row["length"]) for row in timed] == [
        (graph, batch, length) for graph in (False, True) for batch, length, _ in cases
    ]
    for row in timed:
        assert row["relative_error_of_logits"] == pytest.approx([0.0, 0.5], abs=1e-5)
        assert row["end_to_end"]["dense_ms"] > 0
        assert row["device"]["dense_ms"] == row["device"]["pruned_ms"]  # the stand-in's own clock
        assert row["device"]["speedup"] == 1.0


def test_without_a_gpu_engines_are_built_and_not_run(
    engines: Any, graphs: Path, tmp_path: Path
) -> None:
    record = make_record(tmp_path, "cpu")
    engines.compare_engines(record, graphs)
    assert [list(row["engines"]) for row in record.data["rows"]] == [["dense", "pruned"]]
    (left,) = record.data["not_run"]
    assert left["reason"] == "no GPU: the engines are built, not run"


def test_without_a_flavour_or_a_graph_it_is_said(
    engines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bert-base").mkdir()
    (tmp_path / "bert-base" / "ended").touch()
    record = make_record(tmp_path, "cpu")
    engines.compare_engines(record, tmp_path)
    assert record.data["not_run"] == [
        {"shape": "bert-base", "reason": "no graph; see write_graphs"}
    ]
    monkeypatch.setattr(engines, "list_flavours", dict)
    record = make_record(tmp_path, "cpu")
    engines.compare_engines(record, tmp_path)
    assert record.data["not_run"][0]["reason"] == "no TensorRT flavour is installed"
