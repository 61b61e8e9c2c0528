"""A proof holds for every right cut, whatever its seed, and for no wrong one."""

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForSequenceClassification,
    CLIPTextConfig,
    CLIPTextModel,
    PegasusConfig,
    PreTrainedModel,
    T5Config,
    T5ForSequenceClassification,
)

from pruning.cutting import proof
from pruning.cutting.inspection import prove_model
from pruning.cutting.smaller_model import make_smaller
from pruning.cutting.wiring_inference import prove
from tests.pruning.tiny_models import _BART, _T5, SIZES, make_tiny

SEEDS = range(6)


def make_clip_text() -> PreTrainedModel:
    torch.manual_seed(0)
    return CLIPTextModel(CLIPTextConfig(**SIZES, bos_token_id=1, eos_token_id=2)).eval()


@pytest.mark.parametrize("model_type", ["marian", "pegasus"])
def test_parameters_frozen_on_one_side_only_are_compared(model_type: str, tmp_path) -> None:
    """The sinusoids are frozen in a model that was built, and trainable in one that was loaded."""
    if model_type == "marian":
        model = make_tiny("marian")
    else:
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(PegasusConfig(**_BART))
    model.save_pretrained(tmp_path)
    found = prove_model(str(tmp_path))
    assert found.holds, [check for check in found.checks if not check.passed]


def test_a_model_that_is_frozen_can_be_proven_and_stays_frozen() -> None:
    model = make_tiny("bert").requires_grad_(False)
    assert prove(model).holds
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_proof_of_a_final_norm_holds_for_every_seed(seed: int) -> None:
    """Squares of a normed output hardly change: their gradient is all rounding."""
    found = prove(make_clip_text(), seed=seed)
    assert found.holds, [check for check in found.checks if not check.passed]


_ENDS = {"eos_token_id": 3, "num_labels": 3}


def make_ill_conditioned() -> PreTrainedModel:
    """Large weights behind one another: rounding of float32 grows beyond 1e-5 of the output."""
    generator = torch.Generator().manual_seed(1)
    model = T5ForSequenceClassification(T5Config(**{**_T5, **_ENDS})).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


@pytest.mark.parametrize("seed", [0, 5])
def test_rounding_is_told_from_a_wrong_cut_in_float64(seed: int) -> None:
    model = make_ill_conditioned()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = prove(model, seed=seed)
    assert found.holds, [check for check in found.checks if not check.passed]
    assert any("compared in float64" in check.note for check in found.checks)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_a_classifier_that_reads_the_end_token_is_proven() -> None:
    """BART's classifier makes its decoder's tokens itself, and wants one end token per row."""
    torch.manual_seed(0)
    found = prove(BartForSequenceClassification(BartConfig(**{**_BART, **_ENDS})).eval())
    assert found.holds, [check for check in found.checks if not check.passed]


def _heads(model: PreTrainedModel) -> list[torch.nn.Module]:
    return [m for name, m in model.named_modules() if name.endswith(("value", "v_proj"))]


@torch.no_grad()
def swap_heads(model: PreTrainedModel) -> None:
    for linear in _heads(model):
        if isinstance(linear, torch.nn.Linear) and linear.out_features >= 16:
            for tensor in (linear.weight, linear.bias):
                tensor[:16] = tensor[:16].roll(8, dims=0)


@torch.no_grad()
def drop_a_bias(model: PreTrainedModel) -> None:
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-2]
    linear.bias.zero_()


@torch.no_grad()
def round_a_weight(model: PreTrainedModel) -> None:
    """Lose the last bits of one matrix: what a cut through bfloat16 would do."""
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-2]
    linear.weight.copy_(linear.weight.bfloat16())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("harm", [swap_heads, drop_a_bias, round_a_weight])
def test_a_wrong_cut_is_noticed(monkeypatch, harm, scale: float, seed: int) -> None:
    """Also where outputs are small: tolerances go with what is compared."""
    model = make_clip_text()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases start at 0
                parameter += 0.05 * torch.randn_like(parameter)
        model.final_layer_norm.weight *= scale
        model.final_layer_norm.bias *= scale

    def cut_wrongly(*args):
        smaller = make_smaller(*args)
        harm(smaller)
        return smaller

    monkeypatch.setattr(proof, "make_smaller", cut_wrongly)
    found = prove(model, seed=seed)
    assert not found.holds
    assert any(not c.passed and c.what.startswith("outputs") for c in found.checks)
