import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from pruning.checkpoint import is_pruned, load_plan, load_pruned, save_pruned
from pruning.errors import NirvanaError
from pruning.repack import repack
from tests.pruning.tiny_models import (
    TYPES,
    dropping_plan,
    make_tiny,
    padded_batch,
    uneven_plan,
)

PLANS = {"uneven": uneven_plan, "dropping": dropping_plan}

# Runs where none of this project's packages can be imported.
WITHOUT_PACKAGE = """
import sys, torch
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pruning", "exporters", "profiles", "nirvana_deploy"):
            raise ImportError("absent: " + name)
sys.meta_path.insert(0, Refuse())
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
batch = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    torch.save(model.eval()(**batch).logits, sys.argv[3])
assert not any(name.split(".")[0] == "pruning" for name in sys.modules)
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = make_tiny("bert")
    plan = uneven_plan(model)
    save_pruned(repack(model, plan), plan, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("make_plan", PLANS.values(), ids=PLANS.keys())
@pytest.mark.parametrize("model_type", TYPES)
@torch.no_grad()
def test_both_ways_of_loading_give_the_saved_bits(tmp_path, model_type: str, make_plan) -> None:
    model, batch = make_tiny(model_type), padded_batch()
    plan = make_plan(model)
    smaller = repack(model, plan)
    save_pruned(smaller, plan, tmp_path / "checkpoint")
    expected = smaller(**batch).logits
    assert torch.equal(load_pruned(tmp_path / "checkpoint").eval()(**batch).logits, expected)
    stock = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "checkpoint", trust_remote_code=True
    )
    assert torch.equal(stock.eval()(**batch).logits, expected)
    assert load_plan(tmp_path / "checkpoint") == plan


def test_it_loads_where_this_package_is_absent(saved: Path, tmp_path: Path) -> None:
    torch.save(padded_batch(), tmp_path / "batch.pt")
    arguments = [saved, tmp_path / "batch.pt", tmp_path / "logits.pt"]
    command = [sys.executable, "-c", WITHOUT_PACKAGE, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = load_pruned(saved).eval()(**padded_batch()).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), expected)


def test_the_base_model_loads_too(saved: Path) -> None:
    base = AutoModel.from_pretrained(saved, trust_remote_code=True)
    assert base.encoder.layer[1].attention.self.query.out_features == 8


def test_the_folder_is_ordinary_and_holds_no_pickle(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "modeling_pruned.py",
        "plan.json",
        "manifest.json",
    }
    assert is_pruned(saved)
    config = json.loads((saved / "config.json").read_text())
    assert config["nirvana"]["layers"][1] == {"num_heads": 1, "num_neurons": 5}
    assert "pruning" not in (saved / "modeling_pruned.py").read_text().split("import")[1]


def test_nothing_is_overwritten(saved: Path) -> None:
    model = make_tiny("bert")
    with pytest.raises(NirvanaError, match="is not empty"):
        save_pruned(model, uneven_plan(model), saved)


def test_a_missing_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match="Expected a pruned checkpoint"):
        load_pruned(tmp_path)


def test_a_corrupt_manifest_is_named(saved: Path) -> None:
    (saved / "manifest.json").write_text("{")
    with pytest.raises(NirvanaError, match=r"manifest\.json is corrupt"):
        load_pruned(saved)


def test_corruption_is_named(saved: Path) -> None:
    weights = saved / "model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.bias"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(NirvanaError, match=r"model\.safetensors is corrupt"):
        load_pruned(saved)
    weights.unlink()
    with pytest.raises(NirvanaError, match=r"lacks model\.safetensors"):
        load_pruned(saved)
