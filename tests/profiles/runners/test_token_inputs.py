import numpy as np
import pytest

from profiles.runners.runner import TensorSpec
from profiles.runners.token_inputs import make_token_inputs
from pruning.errors import NirvanaError

ALL = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def make_specs(
    *names: str, dtype: type = np.int64, shape: tuple[int | str | None, ...] = ("batch", None)
) -> list[TensorSpec]:
    return [TensorSpec(name=name, dtype=np.dtype(dtype), shape=shape) for name in names]


def make(specs: list[TensorSpec], seed: int = 0) -> dict[str, np.ndarray]:
    return dict(make_token_inputs(specs, batch=4, length=32, vocab_size=20, seed=seed))


def test_a_batch_is_full_random_tokens() -> None:
    inputs = make(make_specs(*ALL))
    assert {name: array.shape for name, array in inputs.items()} == dict.fromkeys(ALL, (4, 32))
    ids = inputs["input_ids"]
    assert ids.min() == 0 and ids.max() == 19 and len(np.unique(ids)) == 20
    assert (inputs["attention_mask"] == 1).all() and (inputs["token_type_ids"] == 0).all()
    np.testing.assert_array_equal(inputs["position_ids"], np.tile(np.arange(32), (4, 1)))


def test_only_what_the_model_takes_is_made_in_its_types() -> None:
    inputs = make(make_specs("attention_mask", dtype=np.float32))
    assert list(inputs) == ["attention_mask"]
    assert inputs["attention_mask"].dtype == np.float32
    assert inputs["attention_mask"].flags.c_contiguous


def test_the_seed_decides_the_tokens() -> None:
    specs = make_specs("input_ids")
    np.testing.assert_array_equal(make(specs)["input_ids"], make(specs)["input_ids"])
    assert (make(specs, seed=1)["input_ids"] != make(specs)["input_ids"]).any()


def test_dimensions_that_are_fixed_as_asked_are_taken() -> None:
    assert make(make_specs("input_ids", shape=(4, 32)))["input_ids"].shape == (4, 32)


@pytest.mark.parametrize("shape", [(1, "sequence"), ("batch", 16), ("batch",), ("b", "s", 4)])
def test_a_shape_that_does_not_fit_is_refused(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(
        NirvanaError, match=r"'input_ids' has shape .* cannot take batch 4, length 32"
    ):
        make(make_specs("input_ids", shape=shape))


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(NirvanaError, match=r"has an input 'pixel_values'.* Known inputs:"):
        make(make_specs("input_ids", "pixel_values"))


def test_a_cache_has_the_graphs_own_heads_and_counts_in_mask_and_positions() -> None:
    def make_step(heads: int) -> dict[str, np.ndarray]:
        cache = make_specs(
            "past_key_values.0.key", dtype=np.float32, shape=("batch", heads, "past", 16)
        )
        specs = [*cache, *make_specs("input_ids", "attention_mask", "position_ids")]
        return dict(make_token_inputs(specs, batch=4, length=1, past=30, vocab_size=20, seed=0))

    wide, narrow = make_step(6), make_step(2)
    assert wide["past_key_values.0.key"].shape == (4, 6, 30, 16)
    assert narrow["past_key_values.0.key"].shape == (4, 2, 30, 16)
    assert wide["past_key_values.0.key"].std() == pytest.approx(1, rel=0.1)
    np.testing.assert_array_equal(wide["input_ids"], narrow["input_ids"])
    assert wide["input_ids"].shape == (4, 1) and wide["attention_mask"].shape == (4, 31)
    assert (wide["position_ids"] == 30).all()


def test_a_buffer_has_room_for_the_tokens_of_the_call() -> None:
    buffer = make_specs("past_key_values.0.key", shape=("batch", 2, 8, 16))
    sizes = {"batch": 3, "vocab_size": 9, "seed": 0}
    made = make_token_inputs(buffer, length=2, past=6, **sizes)
    assert made["past_key_values.0.key"].shape == (3, 2, 8, 16)
    with pytest.raises(NirvanaError, match="past and length of no more than 8 tokens together"):
        make_token_inputs(buffer, length=2, past=7, **sizes)


def test_a_cache_that_cannot_be_made_is_refused() -> None:
    free = make_specs("past_key_values.0.key", shape=("batch", "heads", "past", 16))
    with pytest.raises(NirvanaError, match="cannot take batch 4, past 0"):
        make(free)
    with pytest.raises(NirvanaError, match="past is 3, and the model takes no cache"):
        make_token_inputs(make_specs("input_ids"), batch=1, length=1, past=3, vocab_size=9, seed=0)
