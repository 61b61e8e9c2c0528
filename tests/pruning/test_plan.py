import json
from pathlib import Path

import pytest

from pruning.errors import NirvanaError
from pruning.plan import DenseDims, LayerPlan, PruningPlan, hash_config

DIMS = DenseDims(
    model_type="bert",
    num_layers=2,
    hidden_size=8,
    num_heads=4,
    head_dim=2,
    intermediate_size=16,
)


def make_plan(heads: tuple[int, ...] | None = (0, 2), neurons: tuple[int, ...] | None = (1,)):
    layer = LayerPlan(kept_heads=heads, kept_neurons=neurons)
    return PruningPlan(
        dims=DIMS, layers=(layer, layer), config_hash="x", made_by={"method": "hand"}
    )


@pytest.mark.parametrize("heads", [(0, 2), (), None], ids=str)
@pytest.mark.parametrize("neurons", [(0, 5, 15), (), None], ids=str)
def test_a_plan_survives_json(tmp_path: Path, heads, neurons) -> None:
    plan = make_plan(heads, neurons)
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("heads", "neurons", "message"),
    [
        ((0, 4), (1,), "Layer 0: head 4 is out of range; the model has 4"),
        ((0, 0), (1,), "Layer 0: kept heads must be ascending and without duplicates"),
        ((0,), (16,), "Layer 0: neuron 16 is out of range"),
        ((0,), (3, 1), "Layer 0: kept neurons must be ascending"),
        ((-1,), (1,), "head -1 is out of range"),
    ],
)
def test_impossible_indices_are_refused(heads, neurons, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        make_plan(heads, neurons)


def test_a_plan_needs_a_layer_for_each_of_the_models() -> None:
    with pytest.raises(NirvanaError, match="has 1 layers, its model 2"):
        PruningPlan(dims=DIMS, layers=make_plan().layers[:1], config_hash="x")


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(NirvanaError, match="found no file"):
        PruningPlan.load(path)
    path.write_text("{")
    with pytest.raises(NirvanaError, match="is not JSON"):
        PruningPlan.load(path)
    path.write_text(json.dumps({**make_plan().to_json(), "version": 7}))
    with pytest.raises(NirvanaError, match="of version 1, got 7"):
        PruningPlan.load(path)
    path.write_text(json.dumps({**make_plan().to_json(), "extra": 7}))
    with pytest.raises(NirvanaError, match=r"unknown \['extra'\]"):
        PruningPlan.load(path)


def test_a_plan_fits_only_its_own_model() -> None:
    other = DenseDims(
        model_type="bert",
        num_layers=2,
        hidden_size=8,
        num_heads=2,
        head_dim=4,
        intermediate_size=16,
    )
    make_plan().check_fits(DIMS)
    with pytest.raises(NirvanaError, match="num_heads 4, the model has 2"):
        make_plan().check_fits(other)


def test_the_config_hash_ignores_where_a_model_lies() -> None:
    config = {"hidden_size": 8, "_name_or_path": "a", "transformers_version": "5"}
    assert hash_config(config) == hash_config({**config, "_name_or_path": "b"})
    assert hash_config(config) != hash_config({**config, "hidden_size": 9})
