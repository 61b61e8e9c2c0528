"""The GPU benchmark, as far as a CPU can try it: its steps, its parts, what it keeps when one dies.

On a GPU, the tests marked so hold its CUDA graphs against the model itself.
"""

import collections
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

SHAPES = ("bert-base", "llama-1b")
OTHER = "torch-llama-1b"


@pytest.fixture(scope="module")
def modules() -> Any:
    """The benchmark's modules, which stand beside the script."""
    import gpu
    import gpu_calls
    import gpu_models
    import gpu_record
    import gpu_roofline
    import gpu_sub_blocks
    import gpu_timing
    import gpu_torch

    namespace = collections.namedtuple(
        "Modules", "gpu calls models record roofline blocks timing torch"
    )
    return namespace(
        gpu, gpu_calls, gpu_models, gpu_record, gpu_roofline, gpu_sub_blocks, gpu_timing, gpu_torch
    )


def make_pair(modules: Any, name: str, device: str = "cpu") -> tuple[Any, Any, Any]:
    shape = modules.models.find_shape(name, True)
    dense = modules.models.make_dense(shape, device, torch.float32)
    return shape, dense, modules.models.cut(dense, modules.models.make_plan(dense, "both", 50))


class SeenOperators(TorchDispatchMode):
    """Notes every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SHAPES)
def test_no_step_waits_for_the_device(modules: Any, name: str) -> None:
    """What a CUDA graph cannot hold: values read back, tensors made of Python numbers."""
    shape, *models = make_pair(modules, name)
    for model in models:
        for batch, tokens, past in shape.cases:
            module = modules.calls.make_module(model, past)
            ids = modules.calls.make_ids(model, batch, tokens)
            with torch.no_grad():
                module(ids)  # buffers of the cache are made in the first call
                with SeenOperators() as seen:
                    module(ids)
            waits = ("_local_scalar_dense", "lift_fresh", "nonzero", "is_nonzero")
            assert not [op for op in seen.names if any(word in op for word in waits)]


def test_a_decoders_step_is_that_of_its_own_forward(modules: Any) -> None:
    _, *models = make_pair(modules, "llama-1b")
    past, ids = 7, torch.randint(0, 1000, (2, 1))
    for model in models:
        step = modules.calls.DecoderStep(model, past)
        with torch.no_grad():
            found = step(ids)
            cache = DynamicCache(config=model.config)
            for layer, buffers in step._cache._buffers.items():
                cache.update(*(buffer[:, :, :past] for buffer in buffers), layer)
            name = {step._cache_name: cache}
            expected = model(ids, attention_mask=torch.ones(2, past + 1), **name).logits
        torch.testing.assert_close(found, expected)


def test_a_prefill_is_that_of_its_own_forward(modules: Any) -> None:
    _, *models = make_pair(modules, "llama-1b")
    ids = torch.randint(0, 1000, (2, 9))
    for model in models:
        with torch.no_grad():
            found = modules.calls.make_module(model, 0)(ids)
            torch.testing.assert_close(found, model(ids).logits[:, -1:])


@pytest.mark.parametrize(("kind", "percent"), [("both", 50), ("heads", 25), ("neurons", 75)])
def test_plans_take_what_they_say_and_differ_by_layer(
    modules: Any, kind: str, percent: int
) -> None:
    shape = modules.models.SHAPES["bert-base"]
    with torch.device("meta"):
        dense = modules.models.make_dense(shape, "meta", torch.float16)
    plan = modules.models.make_plan(dense, kind, percent)
    kept = 1 - percent / 100
    for part, dense_count in (("heads", shape.heads), ("neurons", shape.neurons)):
        counts = [len(getattr(layer, f"kept_{part}")) for layer in plan.layers]
        share = sum(counts) / (shape.layers * dense_count)
        touched = kind in (part, "both")
        assert share == pytest.approx(kept if touched else 1.0, abs=0.01)
        assert (len(set(counts)) > 1) == touched


def test_a_slower_call_is_found_slower(modules: Any) -> None:
    config = modules.timing.ProfileConfig(
        warmup_seconds=0.0, min_samples=16, min_seconds=0.0, max_seconds=5.0
    )
    now = [0.0]

    def make_call(seconds: float) -> Any:
        def call() -> None:
            now[0] += seconds

        return call

    timed = modules.timing.compare_calls(
        make_call(0.008), make_call(0.002), config, clock=lambda: now[0]
    )
    found = timed["end_to_end"]
    assert (found["dense_ms"], found["pruned_ms"]) == (8.0, 2.0)
    assert found["low"] == found["speedup"] == found["high"] == 4.0
    assert ("device" in timed) == torch.cuda.is_available()


def test_device_times_are_those_of_the_samples(modules: Any) -> None:
    like = np.zeros((2, 2))
    taken = modules.timing._take_last([9.0, 9.0, 1.0, 2.0, 3.0, 4.0], like)
    assert taken.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_what_lies_between_two_points_is_interpolated(modules: Any) -> None:
    table = {("mlp", 100): 1.0, ("mlp", 200): 3.0, ("attention", 2): 7.0}
    assert modules.blocks._look_up(table, "mlp", 150, "0.mlp") == 2.0
    assert modules.blocks._look_up(table, "mlp", 200, "0.mlp") == 3.0
    with pytest.raises(ValueError, match=r"^0\.mlp keeps 300 units; the table has \[100, 200\]"):
        modules.blocks._look_up(table, "mlp", 300, "0.mlp")


def test_an_attempt_that_fails_is_kept_with_its_reason(modules: Any, tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    record = modules.record.PartRecord(path, seconds=60, device="cpu", rehearse=True)
    assert record.attempt(lambda: 3, what="good") == 3
    assert record.attempt(lambda: 1 / 0, what="bad") is None
    kept = json.loads(path.read_text())
    assert [f["what"] for f in kept["failed"]] == ["bad"]
    assert "ZeroDivisionError" in kept["failed"][0]["reason"]
    late = modules.record.PartRecord(path, seconds=0, device="cpu", rehearse=True)
    assert late.attempt(lambda: 3, what="late") is None
    assert json.loads(path.read_text())["not_run"][0]["what"] == "late"


def test_parts_of_a_shape_and_of_sub_blocks_run(modules: Any, tmp_path: Path) -> None:
    record = modules.record.PartRecord(
        tmp_path / "part.json", seconds=300, device="cpu", rehearse=True
    )
    modules.torch.compare_in_torch(record, "llama-8b")
    assert record.data["failed"] == record.data["not_run"] == []
    assert len(record.data["rows"]) == 2 * len(modules.models.VARIANTS)
    half = next(r for r in record.data["rows"] if (r["kind"], r["percent"]) == ("both", 50))
    assert half["kept_fraction_of_block_macs"] == pytest.approx(0.5)
    blocks = modules.record.PartRecord(
        tmp_path / "blocks.json", seconds=300, device="cpu", rehearse=True
    )
    modules.blocks.measure_sub_blocks(blocks)
    assert blocks.data["failed"] == blocks.data["not_run"] == []
    assert len(blocks.data["predictions"]) == 3


def test_a_run_keeps_what_a_dead_part_had(
    modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script as it is run, with a part that is killed in the middle."""
    out = tmp_path / "result.json"
    words = ["--out", str(out), "--rehearse", "--minutes", "10", "--parts", "roofline", OTHER]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    original = modules.gpu.Worker.is_done

    def kill_roofline(worker: Any) -> bool:
        if worker._part.name == "roofline" and worker.read()["rows"]:
            worker.stop("killed by the test")
        return bool(original(worker))

    monkeypatch.setattr(modules.gpu.Worker, "is_done", kill_roofline)
    modules.gpu.main()
    result = json.loads(out.read_text())
    assert result["finished"]
    assert result["bars"] == []
    assert result["parts"]["roofline"]["rows"]
    assert result["parts"][OTHER]["status"] == "done"


def test_a_gpu_is_asked_for(modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "result.json")])
    with pytest.raises(SystemExit, match=r"^No GPU here\. --rehearse tries the script on a CPU\."):
        modules.gpu.main()


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES)
def test_a_cuda_graph_gives_the_models_own_output(modules: Any, name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that torch sees")
    shape, *models = make_pair(modules, name, "cuda")
    for model in models:
        for batch, tokens, past in shape.cases:
            module = modules.calls.make_module(model, past)
            ids = modules.calls.make_ids(model, batch, tokens)
            with torch.no_grad():
                expected = module(ids).clone()
            replay = modules.calls.run_as_graph(module, ids)
            torch.testing.assert_close(replay(), expected, rtol=1e-4, atol=1e-4)


def test_a_result_is_told_in_lines(modules: Any) -> None:
    import gpu_summary

    pair = {"dense_ms": 8.0, "pruned_ms": 4.0, "speedup": 2.0, "low": 1.9, "high": 2.1}
    row = {"kind": "both", "percent": 50, "end_to_end": pair, "kept_fraction_of_block_macs": 0.5}
    found = {"batch": 1, "length": 128, "percent": 50, "predicted_ms": 2.1, "measured_ms": 2.0}
    part = {
        "status": "done",
        "rows": [row],
        "failed": [{"what": "copy", "reason": "lost"}],
        "not_run": [],
        "predictions": [{**found, "relative_error": 0.05}],
    }
    lines = list(
        gpu_summary.summarise({"hardware": "H100", "date": "2026-01-01", "parts": {"torch": part}})
    )
    assert lines[1:] == [
        "\ntorch: done (1 failed, 0 not_run)",
        "  both 50 (keeps 50% of MACs)  end_to_end 8 -> 4 ms, x2 [1.9, 2.1]",
        "  predicted: batch 1 x 128, 50 % gone: 2.1 ms, measured 2 ms (+5.0%)",
        "  failed: {'what': 'copy', 'reason': 'lost'}",
    ]
