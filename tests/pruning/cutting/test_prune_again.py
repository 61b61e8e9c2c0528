import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from pruning.checkpoints.checkpoint import load_pruned, save_pruned
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.repack_checkpoint import repack_checkpoint
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.plans.plan import LayerPlan, PruningPlan
from tests.pruning.checkpoints.test_checkpoint import (
    compute_logits,
    even_plan,
    load_with_remote_code,
)
from tests.pruning.cutting.test_repack_checkpoint import (
    assert_same_tensors,
    read_config,
    read_tensors,
)
from tests.pruning.tiny_models import PLANS, TINY, make_tiny

FAMILIES = ("bert", "llama", "gpt2", "falcon-alibi", "t5", "bart")
FIRST_PLANS = {
    **{name: PLANS[name] for name in ("uneven", "dropping", "block")},
    "even": partial(even_plan, heads=True, neurons=True, dropped=1),  # of the stock class
}


@cache
def tiny(name: str) -> PreTrainedModel:
    """A model that no test changes."""
    return make_tiny(name)


def thinner_layers(model) -> list[LayerPlan]:
    """Of what each block of a pruned model has: the last KV group or all, every second neuron."""
    layers = []
    for dims, stack_layers in read_model(model).current.stacks():
        for layer in (layer for layer in stack_layers if not layer.dropped):
            heads, cross = (
                heads and _find_last_group(heads, dims.heads_per_group)
                for heads in (layer.kept_heads, layer.kept_cross_heads)
            )
            if len(layers) % 2:
                heads = heads and tuple(range(layer.num_kept_heads))
            neurons = layer.kept_neurons and tuple(range(0, layer.num_kept_neurons, 2))
            thinner = LayerPlan(kept_heads=heads, kept_neurons=neurons, kept_cross_heads=cross)
            layers.append(thinner)
    return layers


def _find_last_group(heads: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(i for i, head in enumerate(heads) if head // size == heads[-1] // size)


def without_lost_bias(tensors) -> dict[str, torch.Tensor]:
    """Leave out T5's biases of head 0, which a plain checkpoint has lost and no layer reads."""
    return {n: t[:, 1:] if "relative_attention_bias" in n else t for n, t in tensors.items()}


@pytest.mark.parametrize("first", FIRST_PLANS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_pruned_model_is_pruned_again(name: str, first: str, tmp_path: Path) -> None:
    """Every way gives what the composed plan makes of the dense model, bit for bit."""
    dense = tiny(name)
    smaller = repack(dense, FIRST_PLANS[first](dense))
    save_pruned(smaller, tmp_path / "first")
    plan = plan_for(smaller, thinner_layers(smaller), method="second")
    at_once = repack(dense, plan)
    assert "nirvana" in at_once.config.to_dict()
    read = without_lost_bias if first == "even" else dict
    loaded = [smaller, load_pruned(tmp_path / "first")]
    if "nirvana" in read_config(tmp_path / "first"):
        loaded.append(load_with_remote_code(name, tmp_path / "first"))
    for model in loaded:
        assert plan_for(model, thinner_layers(model), method="second") == plan
        twice = repack(model, plan)
        assert_same_tensors(read(twice.state_dict()), read(at_once.state_dict()))
        assert torch.equal(compute_logits(twice), compute_logits(at_once))
    save_pruned(at_once, tmp_path / "at_once")
    repack_checkpoint(tmp_path / "first", plan, tmp_path / "twice")
    saved = [read_tensors(tmp_path / name) for name in ("twice", "at_once")]
    assert_same_tensors(*map(read, saved))
    described = [read_config(tmp_path / name)["nirvana"] for name in ("twice", "at_once")]
    assert described[0] == described[1]
    attention = TINY[name].attentions[-1]
    again = load_pruned(tmp_path / "twice", attn_implementation=attention)
    assert torch.equal(compute_logits(again), compute_logits(at_once))


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_model_pruned_unevenly_can_become_plain(name: str, tmp_path: Path) -> None:
    dense = tiny(name)
    dense.save_pretrained(tmp_path / "source")
    even = even_plan(dense, heads=True, neurons=True)
    kept = [layer.kept_neurons for layer in even.layers]
    kept[1] = tuple(range(48))
    layers = [replace(layer, kept_neurons=k) for layer, k in zip(even.layers, kept, strict=True)]
    repack_checkpoint(tmp_path / "source", plan_for(dense, layers), tmp_path / "first")
    smaller = load_with_remote_code(name, tmp_path / "first")
    save_pruned(repack(smaller, even), tmp_path / "memory")
    repack_checkpoint(tmp_path / "first", even, tmp_path / "disk")
    for out in (tmp_path / "memory", tmp_path / "disk"):
        assert not {"nirvana", "auto_map"} & set(read_config(out))
        assert not (out / "modeling_pruned.py").exists()
        stock = TINY[name].task.from_pretrained(out)
        assert torch.equal(compute_logits(stock), compute_logits(repack(dense, even)))


def test_a_plan_of_a_plan_tells_how_both_came_about() -> None:
    dense = tiny("bert")
    first = plan_for(dense, PLANS["uneven"](dense).layers, method="first")
    smaller = repack(dense, first)
    plan = plan_for(smaller, thinner_layers(smaller), method="second", budget=0.3)
    assert plan.made_by == {"method": "second", "budget": 0.3, "after": {"method": "first"}}
    assert plan.config_hash == first.config_hash
    assert plan.dims == first.dims


KEPT = LayerPlan(kept_heads=(0,), kept_neurons=(1,))
NO_HEADS = LayerPlan(kept_heads=None, kept_neurons=(0, 1))
FIRST = LayerPlan(kept_heads=(0,), kept_neurons=(0,))
TWO_HEADS = LayerPlan(kept_heads=(0, 1), kept_neurons=(0,))
ABSENT = LayerPlan.drop_block()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((KEPT, KEPT, KEPT), (KEPT, KEPT), "The plan has 2 layers, its model 3"),
        ((KEPT, ABSENT, KEPT), (KEPT, KEPT, KEPT), "The plan has 3 layers, its model 2"),
        ((NO_HEADS, KEPT, KEPT), (KEPT, KEPT, KEPT), "Layer 0 has no heads to keep"),
        ((KEPT, KEPT, KEPT), (KEPT, KEPT, KEPT), "Layer 0: neuron 1 is out of range; .* has 1"),
        (
            (KEPT, KEPT, KEPT),
            (FIRST, TWO_HEADS, FIRST),
            "Layer 1: head 1 is out of range; .* has 1",
        ),
    ],
)
def test_layers_that_do_not_count_the_present_units_are_refused(first, second, message) -> None:
    smaller = repack(tiny("bert"), plan_for(tiny("bert"), first))
    with pytest.raises(NirvanaError, match=message):
        plan_for(smaller, second)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            (KEPT, ABSENT, KEPT),
            (KEPT, KEPT, KEPT),
            "Layer 1 is kept by the plan, the model dropped",
        ),
        (
            (KEPT, KEPT, NO_HEADS),
            (KEPT, KEPT, KEPT),
            "Layer 2: the plan keeps heads, the model dropped them all before",
        ),
        (
            (KEPT, KEPT, KEPT),
            (KEPT, LayerPlan(kept_heads=(0, 2), kept_neurons=(1,)), KEPT),
            "Layer 1: the plan keeps head 2, the model has lost it before. Apply the plan to the d",
        ),
        (
            (KEPT, KEPT, KEPT),
            (KEPT, KEPT, LayerPlan(kept_heads=(), kept_neurons=(1, 47))),
            "Layer 2: the plan keeps neuron 47, the model has lost it",
        ),
    ],
)
def test_a_plan_that_keeps_what_is_gone_is_refused(first, second, message, tmp_path) -> None:
    dense = tiny("bert")
    smaller = repack(dense, plan_for(dense, first))
    save_pruned(smaller, tmp_path / "first")
    plan = plan_for(dense, second)
    with pytest.raises(NirvanaError, match=message):
        repack(smaller, plan)
    with pytest.raises(NirvanaError, match=message):
        repack_checkpoint(tmp_path / "first", plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layer", "changes", "message"),
    [
        (1, {"kept_heads": [0, 6]}, "Layer 1: head 6 is out of range; the model has 6"),
        (2, {"kept_neurons": [3, 48]}, "Layer 2: neuron 48 is out of range; the model has 48"),
        (2, {"kept_neurons": [3, 3]}, "Layer 2: .* without duplicates; neuron 3 is there twice"),
        (1, {"kept_heads": [4, 2]}, "Layer 1: kept heads must be ascending"),
        (0, {"kept_heads": [0, 1, 2]}, "Layer 0: every .* got 2 in group 0, 1 in group 1"),
        (1, {"kept_cross_heads": [0]}, "Layer 1 has no cross-attention; set kept_cross_heads to"),
        (0, {"dropped": True}, "Layer 0: a dropped block keeps nothing"),
    ],
)
def test_a_plan_file_that_no_model_fits_is_refused(layer, changes, message, tmp_path) -> None:
    plan = PLANS["uneven"](tiny("llama")).to_json()
    plan["layers"][layer] = {**plan["layers"][layer], **changes}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(NirvanaError, match=message):
        PruningPlan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mistral", {}, "made for model_type llama, the model has mistral"),
        ("llama", {"num_hidden_layers": 4}, "num_layers 3 of the decoder, the model has 4"),
        ("llama", {"intermediate_size": 64}, "intermediate_size 48 of the decoder, .* has 64"),
        ("llama", {"num_key_value_heads": 2}, "num_kv_heads 3 of the decoder, the model has 2"),
        ("llama", {"head_dim": 4}, "head_dim 8 of the decoder, the model has 4"),
        ("llama", {"mlp_bias": True}, "sizes.neuron_biases 0 of the decoder, the model has 2"),
    ],
)
def test_a_plan_of_another_model_is_refused(name, changes, message, tmp_path) -> None:
    plan = PLANS["uneven"](tiny("llama"))
    other = make_tiny(name, **changes)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(NirvanaError, match=message):
        repack(other, plan)
    with pytest.raises(NirvanaError, match=message):
        repack_checkpoint(tmp_path / "other", plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
