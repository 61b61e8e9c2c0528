"""Profiles by task, given ones, and what the graph cannot take. No builder is needed."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from exporters.engines.engine_config import EngineConfig, ShapeRange
from exporters.engines.engine_profiles import plan_profiles, read_max_length
from pruning.errors import NirvanaError

CONFIG = {
    "batch": ShapeRange(min=1, opt=2, max=4),
    "length": ShapeRange(min=2, opt=8, max=16),
    "past": ShapeRange(min=1, opt=12, max=31),
}
ENCODER = {"input_ids": ("batch", "sequence"), "attention_mask": ("batch", "sequence")}
DECODER = {
    "input_ids": ("batch", "sequence"),
    "attention_mask": ("batch", "total_sequence"),
    "past_key_values.0.key": ("batch", 2, "past_sequence", 16),
}
IN_PLACE = {**DECODER, "past_key_values.0.key": ("batch", 2, 24, 16)}
BESIDE_ENCODER = {
    "encoder_attention_mask": ("batch", "encoder_sequence"),
    "input_ids": ("batch", "sequence"),
    "encoder_hidden_states": ("batch", "encoder_sequence", 32),
}
WITH_PAST = {
    "encoder_attention_mask": ("batch", "encoder_sequence"),
    "input_ids": ("batch", "sequence"),
    "past_key_values.0.decoder.key": ("batch", 2, "past_sequence", 16),
    "past_key_values.0.encoder.key": ("batch", 2, "encoder_sequence", 16),
}
IMAGES = {"pixel_values": ("batch", 3, 8, 8)}


def make_graph(inputs: dict[str, tuple[int | str, ...]]) -> onnx.ModelProto:
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in inputs.items()
    ]
    return helper.make_model(helper.make_graph([], "graph", infos, []))


def shapes(low: list[int], best: list[int], high: list[int]) -> dict[str, list[int]]:
    return {"min": low, "opt": best, "max": high}


@pytest.mark.parametrize(
    ("inputs", "name", "expected"),
    [
        (ENCODER, "default", {"attention_mask": ([1, 2], [2, 8], [4, 16])}),
        (IMAGES, "default", {"pixel_values": ([1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8])}),
        (
            DECODER,
            "prefill",
            {
                "attention_mask": ([1, 2], [2, 8], [4, 16]),
                "past_key_values.0.key": ([1, 2, 0, 16], [2, 2, 0, 16], [4, 2, 0, 16]),
            },
        ),
        (
            DECODER,
            "decode",
            {
                "input_ids": ([1, 1], [2, 1], [4, 1]),
                "attention_mask": ([1, 2], [2, 13], [4, 32]),
                "past_key_values.0.key": ([1, 2, 1, 16], [2, 2, 12, 16], [4, 2, 31, 16]),
            },
        ),
        (
            BESIDE_ENCODER,
            "default",
            {
                "input_ids": ([1, 1], [2, 1], [4, 16]),
                "encoder_hidden_states": ([1, 2, 32], [2, 8, 32], [4, 16, 32]),
            },
        ),
        (
            WITH_PAST,
            "decode",
            {
                "input_ids": ([1, 1], [2, 1], [4, 1]),
                "past_key_values.0.encoder.key": ([1, 2, 2, 16], [2, 2, 8, 16], [4, 2, 16, 16]),
            },
        ),
    ],
    ids=["encoder", "images", "prefill", "decode", "enc-dec prompt", "enc-dec step"],
)
def test_defaults_are_those_of_the_task(inputs, name, expected) -> None:
    profile = plan_profiles(make_graph(inputs), EngineConfig(**CONFIG))[name]
    assert set(profile) == set(inputs)
    for tensor, corners in expected.items():
        assert profile[tensor] == shapes(*corners)


def test_a_decoder_has_a_profile_for_prompts_and_one_for_steps() -> None:
    assert list(plan_profiles(make_graph(DECODER), EngineConfig(**CONFIG))) == ["prefill", "decode"]
    one = {**CONFIG, "length": ShapeRange(min=1, opt=1, max=1)}
    assert list(plan_profiles(make_graph(DECODER), EngineConfig(**one))) == ["decode"]


def test_open_settings_end_where_the_model_does() -> None:
    graph = make_graph(DECODER)
    profiles = plan_profiles(graph, EngineConfig(), max_length=40)
    assert profiles["prefill"]["input_ids"]["max"] == [32, 40]
    assert profiles["decode"]["attention_mask"]["max"] == [32, 40]
    # A buffer of fixed length is a limit that the graph itself has.
    profiles = plan_profiles(make_graph(IN_PLACE), EngineConfig())
    assert profiles["prefill"]["input_ids"]["max"] == [32, 24]
    assert profiles["decode"]["attention_mask"]["max"] == [32, 24]


def test_a_size_that_is_set_leaves_the_others_open() -> None:
    config = EngineConfig(length=ShapeRange(min=4, opt=20, max=512))
    ids = plan_profiles(make_graph(ENCODER), config, max_length=40)["default"]["input_ids"]
    assert ids == shapes([1, 4], [8, 20], [32, 40])
    beyond = EngineConfig(length=ShapeRange(min=16, opt=48, max=512))
    with pytest.raises(NirvanaError, match=r"dimension sequence goes up to 48.*model ends at 40"):
        plan_profiles(make_graph(ENCODER), beyond, max_length=40)


def test_what_is_set_beyond_the_model_is_refused() -> None:
    match = r"profile default: input input_ids, dimension sequence goes up to 16.*model ends at 12"
    with pytest.raises(NirvanaError, match=match):
        plan_profiles(make_graph(ENCODER), EngineConfig(**CONFIG), max_length=12)
    with pytest.raises(NirvanaError, match=r"dimension total_sequence goes up to 32.*ends at 24"):
        plan_profiles(make_graph(IN_PLACE), EngineConfig(**CONFIG))


def test_max_length_is_read_from_the_export(tmp_path: Path) -> None:
    assert read_max_length(tmp_path / "model.onnx") is None
    graphs = {
        "model": {"file": "model.onnx", "max_length": 64, "sha256": {"model.onnx": "0"}},
        "other": {"file": "o.onnx", "sha256": {"o.onnx": "0"}},
    }
    (tmp_path / "export.json").write_text(json.dumps({"graphs": graphs}))
    assert read_max_length(tmp_path / "model.onnx") == 64
    assert read_max_length(tmp_path / "o.onnx") is None
    (tmp_path / "export.json").write_text("[")
    with pytest.raises(NirvanaError, match=r"export\.json cannot be read"):
        read_max_length(tmp_path / "model.onnx")


@pytest.mark.parametrize(("name", "shown"), [("tokens", "'tokens'"), ("", "without a name")])
def test_another_dynamic_dimension_is_refused(name: str, shown: str) -> None:
    info = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", name or None])
    model = helper.make_model(helper.make_graph([], "graph", [info], []))
    with pytest.raises(
        NirvanaError, match=f"x0 has a dynamic dimension {shown}; .*batch, sequence, past_sequence"
    ):
        plan_profiles(model, EngineConfig())
    given = {"x0": ((1, 2), (2, 4), (3, 8))}
    profiles = plan_profiles(model, EngineConfig(profiles=(given,)))
    assert profiles == {"0": {"x0": shapes([1, 2], [2, 4], [3, 8])}}


IDS = ((1, 2), (2, 8), (4, 16))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"ids": IDS}, "profile 0 has shapes for ids; the graph takes input_ids, attention_mask"),
        ({"input_ids": IDS}, r"lacks the input attention_mask \[batch, sequence\]"),
        (
            {"input_ids": IDS, "attention_mask": ((1,), (2,), (4,))},
            r"attention_mask \[batch, sequence\] has 2 dimensions, the profile gives \[1\]",
        ),
        (
            {"input_ids": ((1, 9), (2, 8), (4, 16)), "attention_mask": IDS},
            r"input_ids \[batch, sequence\], dimension 1: expected 1 <= min <= .* got 9, 8, 16",
        ),
        (
            {"input_ids": ((0, 2), (2, 8), (4, 16)), "attention_mask": IDS},
            "dimension 0: expected 1 <= min <= opt <= max, got 0, 2, 4",
        ),
        (
            {"input_ids": IDS, "attention_mask": ((1, 2), (2, 8), (4, 32))},
            r"dimension 1 \(sequence\) is 2, 8, 32, and in input input_ids .* is 2, 8, 16",
        ),
    ],
)
def test_a_profile_that_the_graph_cannot_take_is_refused(given, match: str) -> None:
    with pytest.raises(NirvanaError, match=match):
        plan_profiles(make_graph(ENCODER), EngineConfig(profiles=(given,)))


def test_a_fixed_dimension_stays() -> None:
    graph = make_graph({"x": ("batch", 8)})
    given = {"x": ((1, 4), (2, 8), (4, 8))}
    with pytest.raises(NirvanaError, match=r"x \[batch, 8\], dimension 1 is fixed at 8 .* 4, 8, 8"):
        plan_profiles(graph, EngineConfig(profiles=(given,)))


def test_lengths_must_add_up() -> None:
    cache = ((1, 2, 0, 16), (1, 2, 4, 16), (1, 2, 8, 16))
    given = {
        "input_ids": ((1, 1), (1, 1), (1, 1)),
        "attention_mask": ((1, 1), (1, 4), (1, 9)),
        "past_key_values.0.key": cache,
    }
    with pytest.raises(NirvanaError, match=r"must be past_sequence \+ sequence, 1, 5, 9; got 1, 4"):
        plan_profiles(make_graph(DECODER), EngineConfig(profiles=(given,)))
