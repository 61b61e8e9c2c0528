"""Model types without a record: inferred and proven, or refused with the reason."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from pruning.cutting.masking import masked
from pruning.cutting.repack import repack
from pruning.cutting.wiring_inference import find_or_infer_wiring, read_model
from pruning.errors import NirvanaError
from pruning.wirings.known_wirings import WIRINGS
from tests.pruning.tiny_models import _BART, _LM, SIZES, batch_for, live_logits, uneven_plan

INFERRED = {
    "ernie": (AutoModelForSequenceClassification, SIZES, "bert"),
    "olmo": (AutoModelForCausalLM, _LM, "llama"),
    "starcoder2": (AutoModelForCausalLM, _LM, "llama with gpt2"),
    "granite": (AutoModelForCausalLM, _LM, "llama"),
    "pegasus": (AutoModelForSeq2SeqLM, _BART, "bart"),
}
# Their blocks look like known ones, but compute otherwise.
MISLEADING = {
    "olmo2": (AutoModelForCausalLM, _LM, "the norms `self_attn.q_norm`, .* over all heads"),
    "bloom": (AutoModelForCausalLM, {**SIZES, "n_head": 4, "n_layer": 3}, "ALiBi slopes"),
    "mpnet": (AutoModelForSequenceClassification, SIZES, "one relative position bias of all"),
}


def _make(auto, model_type: str, config: dict):
    torch.manual_seed(0)
    return auto.from_config(AutoConfig.for_model(model_type, **config)).eval()


@pytest.mark.parametrize("model_type", INFERRED)
@torch.no_grad()
def test_what_looks_and_computes_like_a_known_type_is_inferred(model_type: str) -> None:
    auto, config, like = INFERRED[model_type]
    model = _make(auto, model_type, config)
    assert model_type not in WIRINGS
    source = read_model(model)
    assert source.wiring.model_type == model_type
    assert source.wiring.inferred_from.startswith(like)
    plan, batch = uneven_plan(model), batch_for(model)
    smaller = repack(model, plan)
    with masked(model, plan, source.wiring):
        expected = live_logits(model, batch)
    torch.testing.assert_close(live_logits(smaller, batch), expected)
    assert smaller.config.nirvana["wiring"]["inferred_from"] == source.wiring.inferred_from


@pytest.mark.parametrize("model_type", MISLEADING)
def test_a_guess_that_fails_the_proof_is_refused(model_type: str) -> None:
    auto, config, failed = MISLEADING[model_type]
    model = _make(auto, model_type, config)
    message = f"'{model_type}' is not wired.*{failed}.*Known: bart, bert"
    with pytest.raises(NirvanaError, match=message):
        find_or_infer_wiring(model)


def test_blocks_with_other_names_are_refused() -> None:
    model = _make(AutoModelForCausalLM, "gptj", {**SIZES, "rotary_dim": 4})
    message = r"'gptj' is not wired.*no record names.*mlp.fc_in, mlp.fc_out.*To add one"
    with pytest.raises(NirvanaError, match=message):
        find_or_infer_wiring(model)


def test_a_known_type_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pruning.cutting.wiring_inference._infer", lambda model: pytest.fail("guessed")
    )
    model = _make(AutoModelForSequenceClassification, "bert", SIZES)
    assert find_or_infer_wiring(model) is WIRINGS["bert"]


def test_an_inferred_record_is_proven_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _make(AutoModelForSequenceClassification, "ernie", SIZES)
    wiring = find_or_infer_wiring(model)
    monkeypatch.setattr(
        "pruning.cutting.wiring_inference._infer", lambda model: pytest.fail("again")
    )
    assert find_or_infer_wiring(model) is wiring
