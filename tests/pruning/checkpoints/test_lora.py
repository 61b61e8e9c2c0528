from functools import partial
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from pruning.checkpoints.checkpoint import load_plan, load_pruned, save_pruned
from pruning.cutting.repack import plan_for, repack
from pruning.errors import NirvanaError
from tests.pruning.checkpoints.test_checkpoint import (
    compute_logits,
    even_plan,
    load_with_remote_code,
)
from tests.pruning.tiny_models import PLANS, make_tiny, padded_batch

TASKS = {"bert": "SEQ_CLS", "llama": "CAUSAL_LM"}  # the first trains the classifier too
# Where adapters go: the usual places by name, or each linear map that is there.
TARGETS = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"]}
LORA_PLANS = {name: PLANS[name] for name in ("uneven", "dropping")}
LORA_PLANS["even"] = partial(even_plan, neurons=True)  # of the stock class


def add_adapter(model, name: str, targets: list[str] | str = "all-linear") -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=targets, task_type=TASKS[name])
    return get_peft_model(model, config)


def train(model: PeftModel, name: str) -> list[float]:
    batch = padded_batch()
    batch["labels"] = torch.tensor([0, 3, 1]) if name == "bert" else batch["input_ids"]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    model.train()
    for _ in range(6):
        loss = model(**batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(params=TASKS)
def name(request) -> str:
    return request.param


@pytest.fixture(params=LORA_PLANS)
def checkpoint(request, name: str, tmp_path: Path) -> Path:
    model = make_tiny(name)
    save_pruned(repack(model, LORA_PLANS[request.param](model)), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("targets", ["all-linear", "by name"])
def test_an_adapter_trains_saves_loads_and_merges(name, checkpoint, targets, tmp_path) -> None:
    targets = TARGETS[name] if targets == "by name" else targets
    model = add_adapter(load_pruned(checkpoint), name, targets)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    losses = train(model, name)
    assert losses[-1] < 0.95 * losses[0]
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert changed == {key for key, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in key or "modules_to_save" in key for key in changed)

    expected = compute_logits(model)
    model.save_pretrained(tmp_path / "adapter")
    for base in (load_pruned(checkpoint), load_with_remote_code(name, checkpoint)):
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
        assert torch.equal(compute_logits(loaded), expected)

    merged = model.merge_and_unload()
    torch.testing.assert_close(compute_logits(merged), expected)
    save_pruned(merged, tmp_path / "merged")
    assert load_plan(tmp_path / "merged") == load_plan(checkpoint)
    for again in (
        load_pruned(tmp_path / "merged"),
        load_with_remote_code(name, tmp_path / "merged"),
    ):
        assert torch.equal(compute_logits(again), compute_logits(merged))
        assert not torch.equal(compute_logits(again), compute_logits(load_pruned(checkpoint)))


def test_a_merged_model_is_pruned_again(name, checkpoint) -> None:
    model = add_adapter(load_pruned(checkpoint), name)
    train(model, name)
    merged = model.merge_and_unload()
    plan = load_plan(checkpoint)
    assert torch.equal(compute_logits(repack(merged, plan)), compute_logits(merged))


@pytest.mark.parametrize("which", ["the adapted model", "its base"])
def test_adapters_that_were_not_merged_are_refused(name, checkpoint, which, tmp_path) -> None:
    adapted = add_adapter(load_pruned(checkpoint), name)
    model = adapted if which == "the adapted model" else adapted.get_base_model()
    with pytest.raises(NirvanaError, match=r"has adapters, .*merge_and_unload"):
        save_pruned(model, tmp_path / "out")
    with pytest.raises(NirvanaError, match=r"has adapters, .*merge_and_unload"):
        repack(model, load_plan(checkpoint))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_adapters_on_a_dense_model_are_refused(name) -> None:
    model = make_tiny(name)
    plan = PLANS["uneven"](model)
    adapted = add_adapter(model, name)
    for each in (adapted, adapted.get_base_model()):
        with pytest.raises(NirvanaError, match=r"has adapters, .*merge_and_unload"):
            repack(each, plan)
        with pytest.raises(NirvanaError, match=r"has adapters, .*merge_and_unload"):
            plan_for(each, plan.layers)


def test_names_of_what_a_layer_has_lost_are_no_obstacle() -> None:
    """A dropped sub-block without a bias has no module of that name any more."""
    model = make_tiny("llama")
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = add_adapter(repack(model, PLANS["dropping"](model)), "llama", names)
    losses = train(adapted, "llama")
    assert losses[-1] < losses[0]
