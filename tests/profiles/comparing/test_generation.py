"""Waits for tokens, on a made-up clock whose steps have made-up lengths."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from profiles.comparing.generation import GenerationCall, compare_generation
from profiles.measuring.measure_config import ProfileConfig
from profiles.runners.runner import TensorSpec
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import FakeClock


class FakeDecoder:
    """Takes `first` seconds for a prompt and `step * (1 + number)` for each token after it."""

    def __init__(self, clock: FakeClock, first: float, step: float, *, lives: int = 10**9) -> None:
        self.name, self.clock, self.first, self.step_seconds = "fake", clock, first, step
        self.lives, self.num_past, self.batches = lives, 0, []
        names = ("input_ids", "attention_mask", "past_key_values.0.key")
        self.inputs = tuple(TensorSpec(name=n, dtype=np.dtype(np.int64), shape=()) for n in names)

    def make_stepper(self) -> "FakeDecoder":
        return self

    def start(self, batch: int) -> None:
        self.num_past, self.number = 0, 0
        self.batches.append(batch)

    def step(self, ids_BS: np.ndarray) -> np.ndarray:
        self.lives -= 1
        if self.lives < 0:
            raise RuntimeError("CUDA error: device lost")
        self.clock.seconds += self.first if self.num_past == 0 else self.step_seconds * self.number
        self.number += 1
        self.num_past += ids_BS.shape[1]
        return ids_BS[:, -1:] + 1

    def describe(self) -> dict[str, Any]:
        return {"runtime": "fake"}


CONFIG = ProfileConfig(
    batch_sizes=(2,),
    length=5,
    vocab_size=7,
    generate=4,
    min_samples=64,
    min_seconds=0.0,
    warmup_seconds=0.0,
    max_seconds=1e6,
)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiles.comparing.generation.read_cpu_time", lambda: None)


def test_a_text_is_generated_from_an_empty_cache_each_time() -> None:
    clock = FakeClock()
    decoder = FakeDecoder(clock, 1.0, 0.1)
    call = GenerationCall(decoder, np.array([[1, 2, 3], [4, 5, 6]]), 4, clock)
    for _ in range(2):
        assert call()["tokens"].tolist() == [[4, 5, 6, 7], [7, 8, 9, 10]]
    assert decoder.batches == [2, 2] and decoder.num_past == 6
    parts = call.read_parts()
    assert parts["first_token_ms"] == pytest.approx(1000)
    assert parts["inter_token_ms"] == pytest.approx((100 + 200 + 300) / 3)
    assert parts["slowest_gap_ms"] == pytest.approx(300)


def test_waits_and_their_ratios_are_told_apart() -> None:
    clock = FakeClock()
    dense, pruned = FakeDecoder(clock, 0.3, 0.02), FakeDecoder(clock, 0.1, 0.01)
    (case,), partial = compare_generation(dense, pruned, CONFIG, clock=clock)
    assert partial is None and (case.batch, case.prompt_length, case.num_tokens) == (2, 5, 4)
    assert case.first_token_speedup.ratio == pytest.approx(3)
    assert case.inter_token_speedup.ratio == pytest.approx(2)
    assert case.inter_token_speedup.verdict == "faster"
    assert case.dense.first_token.median_ms == pytest.approx(300)
    assert case.dense.first_token.low_ms == pytest.approx(300)
    assert case.dense.first_token.p90_ms == pytest.approx(300)
    assert case.pruned.inter_token.median_ms == pytest.approx(20)
    assert case.pruned.slowest_gap_ms == pytest.approx(30)
    # 8 tokens in 0.1 + 0.01 + 0.02 + 0.03 seconds.
    assert case.pruned.tokens_per_s == pytest.approx(8 / 0.16)
    assert case.whole_speedup.ratio == pytest.approx(0.42 / 0.16)


def test_a_device_that_is_lost_leaves_what_was_measured() -> None:
    clock = FakeClock()
    # A text has 4 steps. A batch size takes 18 texts to warm up and 64 to measure.
    lives = {"within the second": 4 * 130, "before it": 4 * 90}
    for where, steps in lives.items():
        dense = FakeDecoder(clock, 0.3, 0.02, lives=steps)
        config = replace(CONFIG, batch_sizes=(2, 3))
        cases, partial = compare_generation(
            dense, FakeDecoder(clock, 0.1, 0.01), config, clock=clock
        )
        assert partial is not None and "CUDA error: device lost" in partial
        assert partial.startswith("generate 4, batch 3 x 5"), where
        assert cases[0].dense.first_token.num_samples == 64
        if where == "before it":
            assert len(cases) == 1 and "before a first text" in partial
        else:
            assert 0 < cases[1].dense.first_token.num_samples < 64
            assert any(note.startswith("PARTIAL") for note in cases[1].notes)


def test_with_nothing_measured_the_error_is_the_devices() -> None:
    clock = FakeClock()
    dense = FakeDecoder(clock, 0.3, 0.02, lives=2)
    with pytest.raises(RuntimeError, match="device lost"):
        compare_generation(dense, FakeDecoder(clock, 0.1, 0.01), CONFIG, clock=clock)


def test_one_token_has_no_gap() -> None:
    with pytest.raises(NirvanaError, match="generate must be 0, or 2 tokens or more"):
        ProfileConfig(generate=1)
    with pytest.raises(NirvanaError, match="generate must be 0 or more"):
        ProfileConfig(generate=-1)


def test_the_figures_are_plain_data() -> None:
    clock = FakeClock()
    cases, _ = compare_generation(
        FakeDecoder(clock, 0.3, 0.02), FakeDecoder(clock, 0.1, 0.01), CONFIG, clock=clock
    )
    assert json.loads(json.dumps(asdict(cases[0])))["num_tokens"] == 4
