import math

import numpy as np
import pytest
import torch

from exporters.compare.difference import max_difference, measure_difference


@pytest.fixture
def logits() -> np.ndarray:
    """[batch, sequence, classes]"""
    return np.random.default_rng(0).standard_normal((3, 4, 7)).astype(np.float32)


def test_the_worst_output_is_the_one_furthest_off_by_its_own_scale() -> None:
    source = {"a": np.array([[1.0, -20.0]]), "b": np.array([[0.5]])}
    candidate = {"a": np.array([[1.0, -20.5]]), "b": np.array([[0.4]])}
    found = measure_difference(source, candidate, None)
    assert (found.max_abs, found.output, found.largest) == (0.5, "b", 0.5)
    assert found.scaled == pytest.approx(0.2)
    assert found.outputs[0].scaled == pytest.approx(0.025)
    assert (found.kl, found.agreement, found.num_rows) == (None, None, 0)


def test_small_values_are_compared_by_their_own_size() -> None:
    found = measure_difference({"x": np.array([0.01])}, {"x": np.array([0.02])}, None)
    assert found.scaled == pytest.approx(1.0)
    noise = measure_difference({"x": np.array([0.0])}, {"x": np.array([1e-9])}, None)
    assert noise.scaled == pytest.approx(1e-6)  # over the smallest scale


def test_divergence_is_torchs(logits: np.ndarray) -> None:
    other = logits + 0.3 * np.random.default_rng(1).standard_normal(logits.shape)
    found = measure_difference({"logits": logits}, {"logits": other}, None)
    log_q, log_p = (torch.from_numpy(x).double().log_softmax(-1) for x in (other, logits))
    kl = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean()
    assert found.kl == pytest.approx(float(kl), rel=1e-9)
    same = (log_p.argmax(-1) == log_q.argmax(-1)).double().mean()
    assert 0 < found.agreement < 1
    assert found.agreement == pytest.approx(float(same))
    assert found.num_rows == 12


def test_padding_does_not_count_and_tokens_do(logits: np.ndarray) -> None:
    live = np.ones((3, 4), np.int64)
    live[1, 2:] = 0
    other = logits.copy()
    other[1, 2:] += np.arange(7) * 100  # in the padding
    found = measure_difference({"logits": logits}, {"logits": other}, live)
    assert (found.max_abs, found.kl, found.agreement, found.num_rows) == (0.0, 0.0, 1.0, 10)
    other[1, 1, 0] += 100
    found = measure_difference({"logits": logits}, {"logits": other}, live)
    assert found.max_abs == pytest.approx(100, rel=1e-6)
    assert found.agreement == 0.9


def test_logits_of_one_number_a_token_are_a_distribution_over_live_tokens() -> None:
    live = np.array([[1, 1, 0]])
    source, candidate = np.array([[0.0, 1.0, 9.0]]), np.array([[0.0, 1.0, -9.0]])
    found = measure_difference({"start_logits": source}, {"start_logits": candidate}, live)
    assert (found.max_abs, found.agreement, found.num_rows) == (0.0, 1.0, 1)
    assert found.kl == pytest.approx(0, abs=1e-12)
    candidate[0, 0] = 2.0
    found = measure_difference({"start_logits": source}, {"start_logits": candidate}, live)
    assert found.agreement == 0.0
    assert found.kl > 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_infinitely_far(bad: float) -> None:
    value = np.array([[bad, 0.0]])
    assert max_difference(np.zeros((1, 2)), value, None) == math.inf
    assert max_difference(value, np.zeros((1, 2)), None) == math.inf


def test_equal_infinities_are_equal_and_nan_never_is() -> None:
    value = np.array([-np.inf, 1.0])
    assert max_difference(value, value.copy(), None) == 0
    nan = np.array([np.nan])
    assert max_difference(nan, nan, None) == math.inf


def test_other_shapes_are_infinitely_far() -> None:
    assert max_difference(np.zeros((1, 2)), np.zeros((2, 1)), None) == math.inf


def test_ties_are_predictions_that_rounding_decides() -> None:
    source, candidate = np.array([[1.0, 1.02, 0.0]]), np.array([[1.02, 1.0, 0.0]])

    def agreement(scale: float, tie: float) -> float | None:
        pair = ({"logits": scale * source}, {"logits": scale * candidate})
        return measure_difference(*pair, None, tie=tie).agreement

    assert agreement(1, 0) == agreement(1, 0.01) == 0
    assert agreement(1, 0.03) == 1
    assert agreement(10, 0.03) == 1  # as a tolerance, it grows with the values
    assert agreement(0.5, 0.008) == 0
