import json
from dataclasses import replace
from pathlib import Path

import pytest

from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims, UnitSizes
from pruning.plans.plan import LayerPlan, PruningPlan, hash_config, kept_groups
from pruning.plans.plan_composition import check_within, compose

SIZES = UnitSizes(
    query_head_weights=32,
    query_head_biases=2,
    kv_head_weights=32,
    kv_head_biases=4,
    neuron_weights=16,
    neuron_biases=1,
    attention_bias=8,
    attention_rest=0,
    mlp_bias=8,
    norms=32,
)
ENCODER = StackDims(
    name="encoder",
    num_layers=2,
    hidden_size=8,
    num_heads=4,
    num_kv_heads=4,
    head_dim=2,
    intermediate_size=16,
    cross_attention=False,
    sizes=SIZES,
)
DIMS = DenseDims(model_type="bert", stacks=(ENCODER,))
GROUPED = DenseDims(model_type="llama", stacks=(replace(ENCODER, num_kv_heads=2),))
SEQ2SEQ = DenseDims(
    model_type="t5", stacks=(ENCODER, replace(ENCODER, name="decoder", cross_attention=True))
)


def make_plan(
    heads: tuple[int, ...] | None = (0, 2),
    neurons: tuple[int, ...] | None = (1,),
    dims: DenseDims = DIMS,
    **layer,
) -> PruningPlan:
    plan = LayerPlan(kept_heads=heads, kept_neurons=neurons, **layer)
    layers = (plan,) * dims.num_layers
    return PruningPlan(dims=dims, layers=layers, config_hash="x", made_by={"method": "hand"})


@pytest.mark.parametrize("heads", [(0, 2), (), None], ids=str)
@pytest.mark.parametrize("neurons", [(0, 5, 15), (), None], ids=str)
def test_a_plan_survives_json(tmp_path: Path, heads, neurons) -> None:
    plan = make_plan(heads, neurons)
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan


def test_a_plan_of_an_encoder_decoder_survives_json(tmp_path: Path) -> None:
    whole = PruningPlan.dense(SEQ2SEQ, "")
    layers = (*whole.layers[:3], LayerPlan.drop_block())
    plan = replace(whole, layers=layers)
    plan.save(str(tmp_path / "plan.json"))
    assert PruningPlan.load(str(tmp_path / "plan.json")) == plan
    assert [len(layers) for _, layers in plan.stacks()] == [2, 2]
    assert whole.layers[0].kept_cross_heads is None
    assert whole.layers[2].kept_cross_heads == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("heads", "neurons", "message"),
    [
        ((0, 4), (1,), "Layer 0: head 4 is out of range; the model has 4"),
        ((-1, 0), (1,), "Layer 0: head -1 is out of range"),
        (
            (0, 0),
            (1,),
            "Layer 0: kept heads must be ascending .* duplicates; head 0 is there twice",
        ),
        ((2, 0), (1,), "Layer 0: kept heads must be ascending"),
        ((0,), (16,), "Layer 0: neuron 16 is out of range"),
        ((0,), (3, 3), "Layer 0: kept neurons must be ascending .*neuron 3 is there twice"),
        ((0.5,), (1,), r"Layer 0: kept heads are whole numbers, got 0\.5"),
        ((True,), (1,), "Layer 0: kept heads are whole numbers, got True"),
    ],
)
def test_indices_that_do_not_fit_are_refused(heads, neurons, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        make_plan(heads, neurons)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"dropped": True}, "Layer 0: a dropped block keeps nothing"),
        ({"kept_cross_heads": (0,)}, "Layer 0 has no cross-attention"),
    ],
)
def test_contradictions_are_refused(layer, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        make_plan(**layer)


def test_cross_attention_heads_are_checked_too() -> None:
    whole = PruningPlan.dense(SEQ2SEQ, "")
    wrong = replace(whole.layers[2], kept_cross_heads=(1, 9))
    with pytest.raises(NirvanaError, match="Layer 2: cross-attention head 9 is out of range"):
        replace(whole, layers=(*whole.layers[:2], wrong, whole.layers[3]))


def test_kv_groups_keep_equally_many_query_heads() -> None:
    assert make_plan((1, 2), dims=GROUPED).layers[0].num_kept_heads == 2
    assert kept_groups((1, 2), GROUPED.stacks[0]) == (0, 1)
    assert kept_groups((2, 3), GROUPED.stacks[0]) == (1,)
    with pytest.raises(NirvanaError, match=r"Layer 0: .* equally many .* 2 in group 0, 1 in group"):
        make_plan((0, 1, 2), dims=GROUPED)


def test_one_block_of_each_stack_stays() -> None:
    gone = LayerPlan.drop_block()
    layers = (*PruningPlan.dense(SEQ2SEQ, "").layers[:2], gone, gone)
    with pytest.raises(NirvanaError, match="drops every block of the decoder; keep one"):
        PruningPlan(dims=SEQ2SEQ, layers=layers, config_hash="")


def test_the_number_of_layers_must_match() -> None:
    with pytest.raises(NirvanaError, match="The plan has 1 layers, its model 2"):
        PruningPlan(dims=DIMS, layers=make_plan().layers[:1], config_hash="")


def test_unknown_and_missing_keys_are_refused() -> None:
    data = make_plan().to_json()
    with pytest.raises(NirvanaError, match=r"unknown \['extra'\]"):
        PruningPlan.from_json({**data, "extra": 1})
    del data["layers"][1]["kept_neurons"]
    with pytest.raises(NirvanaError, match=r"Layer 1 of the plan lacks \['kept_neurons'\]"):
        PruningPlan.from_json(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=1), "of version 2, got 1.*--write-plan FILE"),
        (lambda d: d["dims"]["stacks"][0].update(num_kv_heads=3), "num_kv_heads should divide"),
        (lambda d: d["dims"]["stacks"][0].update(num_heads=0), "num_heads should be"),
        (lambda d: d["layers"][0].update(kept_heads=3), "kept_heads is a list or null, got 3"),
        (lambda d: d["layers"][1].update(dropped="no"), "Layer 1 .*dropped is true or false"),
        (lambda d: d.update(dims=[]), "dims should be a JSON object, got list"),
        (lambda d: d.update(layers=None), "layers of the plan should be a JSON list, got NoneType"),
        (lambda d: d["dims"].update(stacks=None), "stacks .* should be a JSON list, got NoneType"),
        (
            lambda d: d["dims"]["stacks"][0].update(intermediate_size="9"),
            "intermediate_size should",
        ),
        (lambda d: d["dims"]["stacks"][0]["sizes"].update(norms="9"), r"sizes\.norms should be"),
    ],
)
def test_wrong_json_is_refused(change, message: str) -> None:
    data = json.loads(json.dumps(make_plan().to_json()))
    change(data)
    with pytest.raises(NirvanaError, match=message):
        PruningPlan.from_json(data)


def test_files_that_are_no_plan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match="found no file there"):
        PruningPlan.load(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(NirvanaError, match=r"plan\.json cannot be read: it is not JSON"):
        PruningPlan.load(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(NirvanaError, match="Expected a pruning plan of version 2, got 'list'"):
        PruningPlan.load(tmp_path / "plan.json")


def test_the_first_other_dimension_is_named() -> None:
    wider = replace(DIMS, stacks=(replace(ENCODER, hidden_size=9),))
    with pytest.raises(NirvanaError, match="hidden_size 8 of the encoder, the model has 9"):
        DIMS.check_same(wider)
    biased = replace(DIMS, stacks=(replace(ENCODER, sizes=replace(SIZES, neuron_biases=0)),))
    with pytest.raises(NirvanaError, match=r"sizes\.neuron_biases 1 of the encoder"):
        DIMS.check_same(biased)


def test_a_plan_of_a_plan_counts_in_dense_numbers() -> None:
    first = make_plan((0, 2, 3), (1, 4, 9, 15))
    half = LayerPlan(kept_heads=(1, 2), kept_neurons=(0, 3))
    second = compose(first, [half, LayerPlan.drop_block()], {"method": "again"})
    assert second.layers[0] == LayerPlan(kept_heads=(2, 3), kept_neurons=(1, 15))
    assert second.layers[1].dropped
    assert second.made_by == {"method": "again", "after": {"method": "hand"}}
    left = LayerPlan(kept_heads=(0,), kept_neurons=None)
    third = compose(second, [left], {})
    assert third.layers[0] == LayerPlan(kept_heads=(2,), kept_neurons=None)
    with pytest.raises(NirvanaError, match="has 2 layers, its model 1"):
        compose(second, [left, left], {})
    with pytest.raises(NirvanaError, match="Layer 0: head 2 is out of range; the model has 2"):
        compose(second, [LayerPlan(kept_heads=(2,), kept_neurons=None)], {})
    with pytest.raises(NirvanaError, match="Layer 0 has no neurons to keep"):
        compose(third, [LayerPlan(kept_heads=(0,), kept_neurons=(0,))], {})


def test_what_is_gone_cannot_be_kept() -> None:
    first = make_plan((0, 2), (1, 4))
    check_within(make_plan((0,), ()), first)
    with pytest.raises(NirvanaError, match="Layer 0: the plan keeps head 1, the model has lost it"):
        check_within(make_plan((0, 1), (1,)), first)
    with pytest.raises(NirvanaError, match=r"Layer 0: the plan keeps neurons, .* dropped them all"):
        check_within(make_plan((0,), (1,)), make_plan((0,), None))
    dropped = replace(first, layers=(LayerPlan.drop_block(), first.layers[1]))
    with pytest.raises(NirvanaError, match="Layer 0 is kept by the plan, the model dropped it"):
        check_within(first, dropped)


def test_the_hash_ignores_what_does_not_change_the_model() -> None:
    config = {"hidden_size": 8, "transformers_version": "5.14", "dtype": "float32"}
    other = {**config, "transformers_version": "5.20", "_name_or_path": "here"}
    assert hash_config(config) == hash_config(other)
    assert hash_config(config) != hash_config({**config, "hidden_size": 16})
