"""Random tokens come from the whole vocabulary, whatever the padding token's id is."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from exporters.compare.artefact import Artefact
from exporters.compare.cases import Case, CaseTokens, make_tokens
from exporters.compare.compare_config import CompareConfig
from exporters.compare.onnx_artefact import make_facts
from pruning.cutting.proof_checks import draw_inputs
from pruning.errors import NirvanaError
from pruning.token_ids import list_steering, list_usable
from tests.pruning.tiny_models import SIZES


def draw(**config: object) -> CaseTokens:
    facts = make_facts({"vocab_size": 99, **config})
    artefact = Artefact(name="it", precision="fp32", graphs={}, facts=facts, corners={})
    case = Case(batch=8, length=128, padding="right", num_steps=3)
    drawn = [make_tokens(case, [artefact], CompareConfig(seed=seed)) for seed in range(8)]
    ids = np.concatenate([tokens.ids for tokens in drawn])
    live = np.concatenate([tokens.live for tokens in drawn])
    return replace(drawn[0], ids=ids, live=live)


@pytest.mark.parametrize("pad", [0, 1, 3, 4, 11, 98])
def test_only_padding_is_the_padding_token(pad: int) -> None:
    tokens = draw(pad_token_id=pad)
    assert set(tokens.ids[tokens.live == 1]) == set(range(99)) - {pad}
    assert set(tokens.ids[tokens.live == 0]) == {pad}


@pytest.mark.parametrize("pad", [-1, 99, 10**12, None, True, "1"])
def test_a_padding_token_outside_the_vocabulary_is_none(pad: object) -> None:
    tokens = draw(pad_token_id=pad, bos_token_id=1, eos_token_id=[2, 3])
    assert set(tokens.ids[tokens.live == 1]) == set(range(99))
    assert set(tokens.ids[tokens.live == 0]) == {0}


def test_tokens_for_pictures_are_left_out() -> None:
    tokens = draw(pad_token_id=0, image_token_id=50, video_token_index=51)
    assert not {50, 51} & set(tokens.ids.ravel())
    counted = {"is_encoder_decoder": True, "eos_token_id": [2, 7], "pad_token_id": 0}
    assert list_steering(counted) == {0, 2, 7}


def test_type_ids_stay_within_the_table() -> None:
    assert draw(type_vocab_size=1).num_types == 1


def test_a_vocabulary_of_padding_alone_is_refused() -> None:
    with pytest.raises(NirvanaError, match=r"vocabulary has 1 tokens, and none .* pad_token_id"):
        list_usable(1, {0})


@pytest.mark.parametrize("pad", [-1, 3, 98])
def test_proofs_draw_from_the_whole_vocabulary(pad: int) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, pad_token_id=pad))
    seen: set[int] = set()
    for seed in range(60):
        inputs = draw_inputs(model, "right", seed)
        ids, live = inputs["input_ids"], inputs["attention_mask"].bool()
        seen |= set(ids[live].tolist())
        assert set(ids[~live].tolist()) == {max(pad, 0)}
    assert seen == set(range(99)) - {pad}


def test_a_vocabulary_with_large_ids_is_drawn_whole() -> None:
    model = SimpleNamespace(main_input_name="input_ids", device="cpu")
    model.config = BertConfig(**{**SIZES, "vocab_size": 50000})
    highest = max(int(draw_inputs(model, "left", seed)["input_ids"].max()) for seed in range(3))
    assert highest > 4096
    assert isinstance(BertModel(BertConfig(**SIZES)).config.pad_token_id, int)
    assert torch.tensor(list_usable(5, {1})).tolist() == [0, 2, 3, 4]
