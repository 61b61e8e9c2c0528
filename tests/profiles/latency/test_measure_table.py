"""Oracle: blocks cut from a traced decoder, one after the other, are the whole. Nothing is timed
here but that there is a time."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from exporters.export_config import ExportConfig
from profiles.latency import measure_table as module
from profiles.latency.latency_config import TableConfig
from profiles.latency.measure_table import describe_key, make_table, measure_table
from profiles.latency.sample_blocks import SampleBlock, list_sample_blocks, make_sample_model
from profiles.latency.traced_blocks import list_traced, open_blocks, trace_blocks
from profiles.targets.block_work import CallShape
from pruning.cutting.repack import repack
from pruning.cutting.wiring_inference import read_model
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from tests.pruning.allocation.small_dims import GROUPED, PLAIN
from tests.pruning.tiny_models import make_tiny, uneven_plan

CONFIG = TableConfig(batch=2, length=3, past=4, num_points=2, num_rounds=3, num_threads=1)


@pytest.fixture(scope="module")
def model():
    return make_tiny("llama", attention="eager", num_hidden_layers=2)


@pytest.fixture(scope="module")
def traced(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    trace_blocks(model, CONFIG.call, ExportConfig(), CONFIG.num_points, folder)
    return folder


@pytest.fixture
def cache(model, traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache whose traces are copied instead of made."""

    def copy(_model, _call, _export, _num_points, folder: Path) -> None:
        shutil.copytree(traced, folder, dirs_exist_ok=True)

    monkeypatch.setattr(module, "trace_blocks", copy)
    return tmp_path / "cache"


def test_widths_are_spread_to_all_and_the_widest_attention_is_first() -> None:
    blocks = list_sample_blocks(PLAIN.stacks[0], 3)
    assert [block.name for block in blocks] == [
        "attention.4", "attention.3", "attention.1", "mlp.16", "mlp.32", "mlp.48", "none.0",
    ]  # fmt: skip


def test_many_neurons_are_spread_in_multiples() -> None:
    wide = replace(PLAIN.stacks[0], intermediate_size=1536)
    kept = [b.kept for b in list_sample_blocks(wide, 7) if b.part == "mlp"]
    assert len(kept) == 7 and kept[-1] == 1536 and all(count % 64 == 0 for count in kept)


def test_the_sample_is_of_the_models_class_and_sizes(model) -> None:
    sample, blocks = make_sample_model(model, 2)
    layers = sample.model.layers
    assert len(layers) == len(blocks) == 5
    assert (
        layers[0].self_attn.q_proj.weight.shape
        == model.model.layers[0].self_attn.q_proj.weight.shape
    )
    assert layers[2].mlp.up_proj.weight.shape[0] == 24
    assert model.config.num_hidden_layers == 2  # the model itself is left alone


def test_what_has_no_table_is_refused(model) -> None:
    with pytest.raises(NirvanaError, match="one stack of blocks, t5 has 2"):
        make_sample_model(make_tiny("t5", attention="eager"), 2)
    with pytest.raises(NirvanaError, match="was pruned before; a latency table"):
        make_sample_model(repack(model, uneven_plan(model)), 2)


def test_cut_blocks_in_a_row_compute_what_the_whole_does(traced: Path) -> None:
    """Block i leads from the states cut.i to cut.i + 1, both as the whole graph computed them."""
    calls = open_blocks(traced, 1)
    blocks = [block.name for block in list_traced(traced)]
    for number, (name, following) in enumerate(pairwise(blocks)):
        with np.load(traced / "blocks" / f"{following}.npz") as stored:
            after = stored[f"cut.{number + 1}"]
        np.testing.assert_allclose(calls[name]()[f"cut.{number + 1}"], after, rtol=1e-4, atol=1e-5)
    # A past of 4, and 3 more.
    assert calls["attention.3"]()["present.0.key"].shape == (2, 3, 7, 8)


def test_what_is_around_the_blocks_is_the_dense_models(traced: Path) -> None:
    calls = open_blocks(traced, 1)
    logits = calls["dense"]()["logits"]
    assert logits.shape == (2, 3, 99)
    np.testing.assert_allclose(calls["after"]()["logits"], logits, rtol=1e-4, atol=1e-5)
    assert calls["before"]()["cut.0"].shape == (2, 3, 48)


def test_only_an_attention_has_a_cache(traced: Path) -> None:
    listed = json.loads((traced / "sample.json").read_text())["blocks"]
    takes = []
    for block in listed:
        with np.load(traced / "blocks" / f"{block['part']}.{block['kept']}.npz") as stored:
            takes.append(any(name.startswith("past_key") for name in stored.files))
    assert takes == [True, True, False, False, False]
    assert [block.part for block in list_traced(traced)][::2] == ["attention", "mlp", "none"]


def test_a_table_is_measured_once(model, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = measure_table(model, CONFIG, cache=cache)
    assert table.attention.kept == (0, 2, 3) and table.mlp.kept == (0, 24, 48)
    assert table.dense_ms > 0 and table.measured["key"]["past"] == 4
    monkeypatch.setattr(module, "open_blocks", lambda *_: pytest.fail("measured again"))
    assert measure_table(model, CONFIG, cache=cache) == table
    dense = PruningPlan.dense(read_model(model).dims, "")
    assert table.predict_ms(dense) == table.dense_ms


def test_an_interrupted_measurement_goes_on(
    model, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_table(model, CONFIG, cache=cache)
    (folder,) = cache.iterdir()
    (folder / "table.json").unlink()
    samples = json.loads((folder / "samples.json").read_text())
    fewer = {name: [999.0] * 2 for name in samples}
    (folder / "samples.json").write_text(json.dumps(fewer))
    monkeypatch.setattr(module, "trace_blocks", lambda *_: pytest.fail("traced again"))
    table = measure_table(model, CONFIG, cache=cache)
    whole = json.loads((folder / "samples.json").read_text())
    assert all(len(values) == 3 and values[:2] == [999.0] * 2 for values in whole.values())
    assert table.dense_ms == pytest.approx(np.quantile(whole["dense"], 0.25), rel=1e-4)


def test_other_settings_have_another_key(model) -> None:
    key = describe_key(model, CONFIG, ExportConfig())
    others = [
        describe_key(model, TableConfig(batch=3, length=3, past=4, num_threads=1), ExportConfig()),
        describe_key(model, CONFIG, ExportConfig(opset=20)),
        describe_key(make_tiny("qwen2", attention="eager"), CONFIG, ExportConfig()),
    ]
    assert all(other != key for other in others)
    json.dumps(key)


def test_other_forms_have_no_table(model) -> None:
    with pytest.raises(NirvanaError, match="form portable in fp32, got ort-cpu in fp32"):
        measure_table(model, CONFIG, export=ExportConfig(form="ort-cpu"))


def test_a_table_is_made_of_quartiles_beyond_the_empty_block() -> None:
    names = ("attention.4", "attention.2", "mlp.50", "none.0", "dense", "before", "after")
    took = (5, 3, 8, 1, 40, 2, 3)
    samples = {n: np.array([v, 99.0, v, v, 99.0]) for n, v in zip(names, took, strict=True)}
    blocks = [
        SampleBlock(part=part, kept=kept)
        for part, kept in (("attention", 4), ("attention", 2), ("mlp", 50), ("none", 0))
    ]
    table = make_table(GROUPED.stacks[0], tuple(blocks), samples, {})
    assert table.attention.kept == (0, 2, 4) and table.attention.latency_ms == (0.0, 2.0, 4.0)
    assert table.mlp.latency_ms == (0.0, 7.0) and (table.block_ms, table.dense_ms) == (1, 40)
    assert table.rest_ms == 5
    del samples["none.0"]  # an empty block that hands on what it gets takes nothing
    assert make_table(GROUPED.stacks[0], tuple(blocks), samples, {}).block_ms == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch 0, length 128, past 0"),
        ({"num_points": 1}, "num_points of 2 or more"),
        ({"num_rounds": 2}, "num_rounds of 3 or more"),
        ({"clock": "cpu"}, "set num_threads=1"),
        ({"clock": "sun"}, "must be wall or cpu"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_are_none_are_refused(settings, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        TableConfig(**settings)


def test_the_call_is_the_configs() -> None:
    assert CONFIG.call == CallShape(batch=2, length=3, past=4)
