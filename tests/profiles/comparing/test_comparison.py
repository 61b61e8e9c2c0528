import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from profiles.comparing.comparison import compare_latency
from profiles.comparing.profile_artefacts import profile_artefacts
from profiles.measuring.measure_config import ProfileConfig
from profiles.measuring.throttling import ThrottleVerdict
from profiles.runners.open_runner import fit_call
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import (
    VOCAB,
    FakeClock,
    FakeRunner,
    make_encoder,
    noisy,
    save_encoder,
)
from tests.profiles.measuring.fake_nvml import install_nvml

Cost = Callable[[int, float], float]
QUICK = ProfileConfig(
    batch_sizes=(1, 2),
    length=8,
    warmup_seconds=0.0,
    min_seconds=0.0,
    max_seconds=5.0,
    vocab_size=VOCAB,
    num_threads=1,
)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real counters would see the other programs of this machine."""
    monkeypatch.setattr("profiles.comparing.comparison.read_cpu_time", lambda: None)


def compare(dense: Cost, pruned: Cost, **settings: Any) -> dict[str, Any]:
    clock = FakeClock()
    config = ProfileConfig(**{"batch_sizes": (8,), "length": 16, "min_seconds": 1.0, **settings})
    runners = FakeRunner(clock, dense, name="dense"), FakeRunner(clock, pruned, name="pruned")
    result = compare_latency(*runners, config, clock=clock).to_json()
    assert json.loads(json.dumps(result)) == result
    return result


def test_the_ratio_and_its_interval_are_found() -> None:
    (case,) = compare(noisy(0.018, seed=1), noisy(0.010, seed=2))["cases"]
    speedup = case["speedup"]
    assert speedup["low"] < 1.8 < speedup["high"]
    assert speedup["ratio"] == pytest.approx(1.8, rel=0.01)
    assert speedup["high"] - speedup["low"] < 0.03
    assert speedup["confidence"] == 0.95
    assert case["stationary"] and case["notes"] == []


def test_figures_can_be_made_again_of_the_stored_samples() -> None:
    (case,) = compare(noisy(0.018, seed=1), noisy(0.010, seed=2))["cases"]
    for model in ("dense", "pruned"):
        timing, samples = case[model], np.array(case[model]["samples_ms"])
        assert timing["num_samples"] == samples.size >= 64
        assert timing["median_ms"] == np.median(samples)
        assert timing["mean_ms"] == pytest.approx(samples.mean())
        assert timing["p90_ms"] == pytest.approx(np.quantile(samples, 0.9))
        assert timing["p90_note"] is None
        variation = samples.std(ddof=1) / samples.mean()
        assert timing["coefficient_of_variation"] == pytest.approx(variation)
        assert timing["throughput_per_s"] == pytest.approx(8 * 1000 / np.median(samples))
        np.testing.assert_array_equal(samples, samples.round(4))


def test_each_batch_size_is_a_case_on_the_same_inputs_for_both() -> None:
    clock = FakeClock()
    dense, pruned = (FakeRunner(clock, noisy(0.01)) for _ in range(2))
    config = ProfileConfig(batch_sizes=(1, 4), length=16, min_seconds=0.1)
    result = compare_latency(dense, pruned, config, clock=clock)
    assert [(case.batch, case.length) for case in result.cases] == [(1, 16), (4, 16)]
    assert [inputs["input_ids"].shape for inputs in dense.bound] == [(1, 16), (4, 16)]
    for of_dense, of_pruned in zip(dense.bound, pruned.bound, strict=True):
        np.testing.assert_equal(of_dense, of_pruned)


def test_a_drifting_model_is_flagged_by_name() -> None:
    (case,) = compare(lambda run, _: 0.01 * (1 + 0.005 * run), noisy(0.01))["cases"]
    assert case["stationary"] is False
    assert any(note.startswith("dense latency moved by +") for note in case["notes"])
    assert not any(note.startswith("pruned latency moved") for note in case["notes"])


def test_a_warm_up_that_does_not_settle_is_flagged() -> None:
    (case,) = compare(lambda run, _: 0.01 * 1.01**run, noisy(0.01), max_seconds=40.0)["cases"]
    assert case["stationary"] is False
    assert any("the warm-up ended after" in note for note in case["notes"])


def test_spread_is_noted_above_2_5_percent() -> None:
    (case,) = compare(noisy(0.01, spread=0.02), noisy(0.01, spread=0.1))["cases"]
    (note,) = case["notes"]
    assert note.startswith("pruned latency varies by ") and note.endswith("(over 2.5%)")


def test_a_case_cut_short_withholds_p90_and_says_so() -> None:
    (case,) = compare(noisy(0.3), noisy(0.3), max_seconds=40.0)["cases"]
    count = case["dense"]["num_samples"]
    assert 18 <= count < 64
    assert case["dense"]["p90_ms"] is None
    assert case["dense"]["p90_note"] == f"{count} samples; p90 needs 64"
    assert f"max_seconds (40) ended the case after {count} samples a model" in case["notes"]


def test_a_case_of_one_block_claims_nothing() -> None:
    (case,) = compare(lambda *_: 50.0, lambda *_: 25.0)["cases"]
    assert case["stationary"] is False
    assert any("2 samples of dense are too few to show" in note for note in case["notes"])
    assert any("1 blocks of samples are too few" in note for note in case["notes"])
    assert case["speedup"]["low"] is None and case["verdict"] == "undecided"


def test_work_of_others_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiles.comparing.comparison.find_other_fraction", lambda *_: 0.2345)
    (case,) = compare(noisy(0.01), noisy(0.01))["cases"]
    assert case["other_cpu_fraction"] == 0.2345
    assert case["notes"] == ["other programs took 23% of the CPUs meanwhile"]
    monkeypatch.setattr("profiles.comparing.comparison.find_other_fraction", lambda *_: 0.04)
    assert compare(noisy(0.01), noisy(0.01))["cases"][0]["notes"] == []


def test_models_with_other_inputs_are_not_compared() -> None:
    clock = FakeClock()
    dense = FakeRunner(clock, noisy(0.01), name="dense")
    pruned = FakeRunner(clock, noisy(0.01), name="pruned", input_names=("input_ids",))
    expected = (
        r"same inputs .* input_ids \(int64\), attention_mask \(int64\) and input_ids \(int64\)"
    )
    with pytest.raises(NirvanaError, match=expected):
        compare_latency(dense, pruned, ProfileConfig(), clock=clock)


def test_method_and_environment_are_recorded() -> None:
    result = compare(noisy(0.01), noisy(0.01), num_threads=3, seed=7)
    assert result["environment"]["num_threads"] == 3
    assert result["method"]["seed"] == 7 and result["method"]["runtime"] == "fake"
    assert result["method"]["p90_sample_floor"] == 64


def test_onnx_models_are_profiled(tmp_path: Path) -> None:
    dense = save_encoder(tmp_path / "dense.onnx", repeats=4)
    pruned = save_encoder(tmp_path / "pruned.onnx")
    progress: list[tuple[str, int, int]] = []
    result = profile_artefacts(
        str(dense), str(pruned), QUICK, progress=lambda *done: progress.append(done)
    ).to_json()
    assert json.loads(json.dumps(result)) == result
    assert [case["batch"] for case in result["cases"]] == [1, 2]
    assert all(case["dense"]["num_samples"] >= 64 for case in result["cases"])
    assert result["method"]["provider"] == "CPUExecutionProvider"
    assert result["method"]["num_threads"] == 1
    assert result["method"]["graphs"]["same_form"] is True
    assert result["method"]["graphs"]["dense"]["num_nodes"] == 10
    assert {label for label, _, _ in progress} == {"batch 1 x 8", "batch 2 x 8"}
    assert progress[-1][1:] == (100, 100)


def test_graphs_of_other_form_are_said_to_be(tmp_path: Path) -> None:
    dense = save_encoder(tmp_path / "dense.onnx")
    model = make_encoder()
    model.producer_name = "others"
    onnx.save(model, tmp_path / "pruned.onnx")
    result = profile_artefacts(str(dense), str(tmp_path / "pruned.onnx"), QUICK)
    assert result.method["graphs"]["same_form"] is False
    (difference,) = result.method["graphs"]["differences"]
    assert "producer: dense tests, pruned others" in difference
    assert all(difference in case.notes for case in result.cases)


def test_progress_is_silent_where_there_is_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save_encoder(tmp_path / "model.onnx")
    profile_artefacts(str(path), str(path), QUICK)
    assert capfd.readouterr() == ("", "")


def test_ids_are_those_of_the_smaller_vocabulary(tmp_path: Path) -> None:
    small = save_encoder(tmp_path / "small.onnx")
    config = ProfileConfig(length=8, batch_sizes=(1,), min_samples=2, min_seconds=0)
    asked = fit_call((str(small),), config)
    assert asked.vocab_size == VOCAB < 1000
    result = profile_artefacts(str(small), str(small), config)
    assert len(result.cases) == 1


def test_a_vocabulary_smaller_than_asked_is_explained(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "model.onnx")
    config = ProfileConfig(length=8, vocab_size=VOCAB * 20)
    with pytest.raises(NirvanaError, match="vocab_size within its vocabulary"):
        profile_artefacts(str(path), str(path), config)


def lose_after(num_runs: int) -> Cost:
    def cost(run: int, _now: float) -> float:
        if run >= num_runs:
            raise RuntimeError("CUDA error: the device is lost")
        return 0.01

    return cost


@pytest.mark.parametrize("where", ["in the second case", "before it"])
def test_a_device_that_is_lost_leaves_what_was_measured(where: str) -> None:
    # A case takes 18 runs to warm up, and 100 in 2 seconds.
    num_runs = {"in the second case": 118 + 50, "before it": 118 + 8}[where]
    result = compare(
        noisy(0.01),
        lose_after(num_runs),
        batch_sizes=(1, 4),
        warmup_seconds=0.0,
        min_seconds=2.0,
    )
    first, *rest = result["cases"]
    assert first["dense"]["num_samples"] >= 100 and first["stationary"]
    if where == "before it":
        assert rest == []
        assert result["partial"].startswith("batch 4 x 16, before a first sample: CUDA error")
    else:
        assert result["partial"] == "batch 4 x 16: CUDA error: the device is lost"
        assert 0 < rest[0]["dense"]["num_samples"] < 50
        assert any(note.startswith("PARTIAL, ") for note in rest[0]["notes"])


def test_with_nothing_measured_the_error_is_the_devices() -> None:
    with pytest.raises(RuntimeError, match="device is lost"):
        compare(noisy(0.01), lose_after(1))


class OnGpu(FakeRunner):
    def describe(self) -> dict[str, Any]:
        return {"runtime": "fake", "gpu": "GPU-0"}


def test_energy_of_runs_on_a_gpu_is_measured_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    nvml = install_nvml(monkeypatch, millijoules=lambda: int(clock.seconds * 200_000))
    monkeypatch.setattr("profiles.comparing.comparison.capture_environment", lambda _: {})
    monkeypatch.setattr("profiles.comparing.comparison.read_throttling", lambda: None)
    monkeypatch.setattr(
        "profiles.comparing.comparison.judge_throttling",
        lambda *_: ThrottleVerdict(fraction=None, reasons={}),
    )
    config = ProfileConfig(batch_sizes=(1,), length=4, min_seconds=0.5)
    runners = OnGpu(clock, noisy(0.02)), FakeRunner(clock, noisy(0.01))
    (case,) = compare_latency(*runners, config, clock=clock).cases
    assert case.dense.energy is not None and case.pruned.energy is None
    assert case.dense.energy.joules_per_call == pytest.approx(4.0, rel=0.02)
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda _: 7  # stands still: it is lost
    result = compare_latency(*runners, config, clock=clock)
    assert result.partial is not None and "energy: The GPU counted 0 J" in result.partial
    assert result.cases[0].dense.num_samples >= 32
