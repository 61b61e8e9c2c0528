import pytest
from torch import nn
from transformers import AutoConfig, AutoModel

from pruning.errors import NirvanaError
from pruning.structure import read_structure
from pruning.wiring import WIRINGS, find_wiring
from tests.pruning.tiny_models import TYPES, make_tiny


def test_every_record_has_a_tiny_model() -> None:
    assert set(WIRINGS) == set(TYPES)


@pytest.mark.parametrize("model_type", TYPES)
def test_sizes_are_read_from_the_model(model_type: str) -> None:
    dims = read_structure(make_tiny(model_type)).dense_dims()
    assert (dims.num_layers, dims.num_heads, dims.head_dim) == (3, 4, 8)
    assert (dims.hidden_size, dims.intermediate_size) == (32, 48)


def test_an_unwired_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NirvanaError, match=r"'gpt2' is not wired.*Known: bert, camembert"):
        find_wiring("gpt2")


def test_an_unclaimed_linear_is_refused() -> None:
    model = make_tiny("bert")
    model.base_model.encoder.layer[1].adapter = nn.Linear(4, 4)
    with pytest.raises(NirvanaError, match=r"Layer 1: .* does not claim \['adapter'\]"):
        read_structure(model)


def test_a_model_without_blocks_is_refused() -> None:
    model = make_tiny("bert")
    del model.base_model.encoder
    with pytest.raises(NirvanaError, match=r"expects blocks at 'encoder\.layer'"):
        read_structure(model)


def test_missing_parts_are_named() -> None:
    model = make_tiny("bert")
    block = model.base_model.encoder.layer[2]
    del block.attention.self.key
    del block.attention.self.all_head_size
    missing = r"Layer 2: .*'attention\.self\.key', 'attention\.self\.all_head_size'"
    with pytest.raises(NirvanaError, match=missing):
        read_structure(model)


def test_cross_attention_is_refused() -> None:
    config = AutoConfig.for_model(
        "bert", hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=16
    )
    config.is_decoder, config.add_cross_attention = True, True
    with pytest.raises(NirvanaError, match=r"does not claim .*crossattention"):
        read_structure(AutoModel.from_config(config))
