import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer
from transformers.utils import logging as hf_logging

from pruning.checkpoints.checkpoint import load_plan, load_pruned, save_pruned
from pruning.cutting.masking import masked
from pruning.cutting.repack import plan_for, repack
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.plans.plan import LayerPlan, PruningPlan
from tests.pruning.tiny_models import PLANS, TINY, batch_for, live_logits, make_tiny
from tests.pruning.tiny_text import write_tiny_model

# Runs where none of this project's packages can be imported: loads, computes, saves again.
WITHOUT_PACKAGE = """
import sys, torch
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pruning", "exporters", "profiles", "nirvana_deploy"):
            raise ImportError("absent: " + name)
sys.meta_path.insert(0, Refuse())
import transformers
for case in sys.argv[1:]:
    auto, folder = case.split("=")
    batch = torch.load(folder + "/batch.pt", weights_only=True)
    prompt = {name: x for name, x in batch.items() if not name.startswith("decoder_")}
    for where in ("checkpoint", "again"):
        load = getattr(transformers, auto).from_pretrained
        model = load(f"{folder}/{where}", trust_remote_code=True).eval()
        with torch.no_grad():
            found = {"logits": model(**batch).logits}
        if model.can_generate():
            found["tokens"] = model.generate(**prompt, max_new_tokens=8, do_sample=False)
        torch.save(found, f"{folder}/{where}.pt")
        model.save_pretrained(folder + "/again")
assert not any(name.split(".")[0] == "pruning" for name in sys.modules)
"""
WITHOUT_PACKAGE_NAMES = ("bert", "llama", "t5")
# Whose config can say fewer heads of the same width; all can say fewer neurons or blocks.
FEWER_HEADS_ARE_PLAIN = {
    *("vit", "llama", "llama-biased-tied", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"),
    *("phi3", "t5", "t5-gated", "mt5"),
}


@cache
def tiny(name: str):
    """A model that no test changes."""
    return make_tiny(name)


def load_with_remote_code(name: str, folder: Path):
    asked = {"trust_remote_code": True, "attn_implementation": TINY[name].attentions[-1]}
    return TINY[name].task.from_pretrained(folder, **asked)


def compute_logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch_for(model)).logits


def even_plan(model, heads: bool = False, neurons: bool = False, dropped: int | None = None):
    """The same units in each layer; where asked for without those of the first KV group."""
    layers = []
    for stack, _ in read_model(model).current.stacks():
        whole = LayerPlan.dense(stack)
        kept = whole.kept_heads[stack.heads_per_group :] or whole.kept_heads[1:]
        kept = kept if heads else whole.kept_heads
        layer = LayerPlan(
            kept_heads=kept,
            kept_neurons=whole.kept_neurons[1::2] if neurons else whole.kept_neurons,
            kept_cross_heads=kept if stack.cross_attention else None,
        )
        numbers = range(stack.num_layers)
        layers += [LayerPlan.drop_block() if n == dropped else layer for n in numbers]
    return plan_for(model, layers)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> tuple[Path, PruningPlan]:
    model = tiny("llama")
    plan = PLANS["uneven"](model)
    folder = tmp_path_factory.mktemp("llama") / "checkpoint"
    save_pruned(repack(model, plan), folder)
    return folder, plan


@pytest.mark.parametrize("make_plan", PLANS.values(), ids=PLANS.keys())
@pytest.mark.parametrize("name", TINY)
def test_both_ways_of_loading_give_the_saved_bits(tmp_path, name: str, make_plan) -> None:
    model = tiny(name)
    plan = make_plan(model)
    smaller = repack(model, plan)
    assert type(smaller).__qualname__ == f"Pruned{type(model).__name__}"
    save_pruned(smaller, tmp_path / "checkpoint")
    expected = compute_logits(smaller)
    attention = TINY[name].attentions[-1]
    loaded = load_pruned(tmp_path / "checkpoint", attn_implementation=attention)
    assert torch.equal(compute_logits(loaded), expected)
    remote = load_with_remote_code(name, tmp_path / "checkpoint")
    assert type(remote).__module__.startswith("transformers_modules.")
    assert torch.equal(compute_logits(remote), expected)
    assert load_plan(tmp_path / "checkpoint") == plan


@pytest.fixture(scope="module")
def without_package(tmp_path_factory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("without_package")
    cases = []
    for name in WITHOUT_PACKAGE_NAMES:
        model = tiny(name)
        smaller = repack(model, PLANS["block" if name == "bert" else "uneven"](model))
        save_pruned(smaller, root / name / "checkpoint")
        torch.save(batch_for(model, side="left"), root / name / "batch.pt")
        cases.append(f"{TINY[name].task.__name__}={root / name}")
    command = [sys.executable, "-c", WITHOUT_PACKAGE, *cases]
    done = subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root, done.stderr


@pytest.mark.parametrize("name", WITHOUT_PACKAGE_NAMES)
@torch.no_grad()
def test_it_loads_and_saves_where_this_package_is_absent(without_package, name: str) -> None:
    folder = without_package[0] / name
    batch = torch.load(folder / "batch.pt")
    again = load_pruned(folder / "again").eval()  # the manifest of the second save holds
    assert load_plan(folder / "again") == load_plan(folder / "checkpoint")
    for where in ("checkpoint", "again"):
        found = torch.load(folder / f"{where}.pt")
        assert torch.equal(found["logits"], again(**batch).logits)
        assert ("tokens" in found) is TINY[name].generates
    if TINY[name].generates:
        prompt = {key: x for key, x in batch.items() if not key.startswith("decoder_")}
        tokens = load_pruned(folder / "checkpoint").generate(
            **prompt, max_new_tokens=8, do_sample=False
        )
        assert torch.equal(found["tokens"], tokens)


def test_loading_warns_of_nothing_but_the_layer_sizes(without_package, llama, capfd) -> None:
    hf_logging.warning_once.cache_clear()
    load_pruned(llama[0]).generate(torch.tensor([[5, 6]]), max_new_tokens=2)
    lines = (without_package[1] + "".join(capfd.readouterr())).splitlines()
    lines = [line for line in lines if "for per-layer attribute" not in line]
    assert not [line for line in lines if "[transformers]" in line or "arning" in line]


def test_big_models_come_in_shards(tmp_path: Path) -> None:
    smaller = repack(tiny("llama"), PLANS["uneven"](tiny("llama")))
    save_pruned(smaller, tmp_path / "checkpoint", max_shard_size="20KB")
    index = json.loads((tmp_path / "checkpoint/model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in (tmp_path / "checkpoint").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == shards
    assert len(shards) > 2
    expected = compute_logits(smaller)
    assert torch.equal(compute_logits(load_pruned(tmp_path / "checkpoint")), expected)
    remote = load_with_remote_code("llama", tmp_path / "checkpoint")
    assert torch.equal(compute_logits(remote), expected)


def test_tokenizer_and_generation_config_come_along(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "source")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "source")
    model = make_tiny("llama")
    model.generation_config.max_new_tokens = 7
    smaller = repack(model, PLANS["uneven"](model))
    save_pruned(smaller, tmp_path / "checkpoint", tokenizer)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    assert loaded("play dice") == tokenizer("play dice")
    remote = load_with_remote_code("llama", tmp_path / "checkpoint")
    assert remote.generation_config.max_new_tokens == 7
    smaller.generation_config.max_new_tokens = 8
    assert model.generation_config.max_new_tokens == 7
    assert "tokenizer.json" in (tmp_path / "checkpoint/manifest.json").read_text()


@pytest.mark.parametrize(
    "kept", [{"heads": True, "neurons": True}, {"neurons": True}, {"dropped": 1}], ids=str
)
@pytest.mark.parametrize("name", TINY)
def test_an_even_plan_gives_the_stock_class(name: str, kept, tmp_path: Path) -> None:
    model = tiny(name)
    plan = even_plan(model, **kept)
    smaller = repack(model, plan)
    is_plain = name in FEWER_HEADS_ARE_PLAIN or "heads" not in kept
    assert (type(smaller) is type(model)) is is_plain
    batch = batch_for(model)
    with torch.no_grad():
        with masked(model, plan, read_model(model).wiring):
            expected = live_logits(model, batch)
        torch.testing.assert_close(live_logits(smaller, batch), expected)
    save_pruned(smaller, tmp_path / "checkpoint")
    assert load_plan(tmp_path / "checkpoint") == plan
    if is_plain:
        asked = {"attn_implementation": TINY[name].attentions[-1]}
        stock = TINY[name].task.from_pretrained(tmp_path / "checkpoint", **asked)
        assert type(stock) is type(model)
        assert torch.equal(compute_logits(stock), compute_logits(smaller))
        assert not list((tmp_path / "checkpoint").glob("*.py"))


@pytest.mark.parametrize("name", ["vit", "t5"])
@torch.no_grad()
def test_other_heads_in_each_layer_are_plain_but_for_a_shared_bias(name: str) -> None:
    model = tiny(name)
    layers = [
        replace(
            layer,
            kept_heads=tuple(head for head in range(4) if head != number % 4),
            kept_cross_heads=layer.kept_cross_heads and (0, 1, 2),
        )
        for number, layer in enumerate(even_plan(model).layers)
    ]
    plan = plan_for(model, layers)
    smaller, batch = repack(model, plan), batch_for(model)
    assert (type(smaller) is type(model)) is (name == "vit")
    with masked(model, plan, read_model(model).wiring):
        torch.testing.assert_close(live_logits(smaller, batch), live_logits(model, batch))


def test_a_model_that_was_not_pruned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"carries no plan: call repack\(model, plan\) first"):
        save_pruned(make_tiny("bert"), tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


def test_the_attention_of_a_loaded_model_is_set_as_of_any(llama) -> None:
    """In a process that has asked no dense model before: transformers remembers the answer."""
    code = (
        "import sys\nfrom pruning.checkpoints.checkpoint import load_pruned\n"
        "from transformers import AutoModelForCausalLM\n"
        "remote = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "for model in (load_pruned(sys.argv[1]), remote):\n"
        "    model.set_attn_implementation('eager')\n"
        "    assert model.config._attn_implementation == 'eager', type(model)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(llama[0])], check=True)
