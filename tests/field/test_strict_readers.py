"""Plans, manifests and configs of other shapes are refused in words, and in a moment."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporters.inspect_export import inspect_export
from nirvana_deploy.runs.stage_folder import StageFolder
from nirvana_deploy.serving.text_model_file import read_text_model
from profiles.latency.latency_table import LatencyTable
from pruning.checkpoints.config_file import read_config_file
from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims, StackDims, UnitSizes
from pruning.plans.plan import PruningPlan
from pruning.wirings.wiring import Wiring

_STACK = StackDims(
    name="encoder",
    num_layers=2,
    hidden_size=8,
    num_heads=4,
    num_kv_heads=4,
    head_dim=2,
    intermediate_size=16,
    cross_attention=False,
    sizes=UnitSizes(
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
    ),
)


def _plan() -> dict[str, Any]:
    dims = DenseDims(model_type="bert", stacks=(_STACK,))
    return PruningPlan.dense(dims, "0").to_json()


def _set(*path: Any) -> Callable[[Any], None]:
    *above, last, value = path

    def change(data: Any) -> None:
        for step in above:
            data = data[step]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("layers", 0, "kept_heads", [None, 1]), "whole numbers, got None"),
        (_set("layers", 0, "kept_heads", [1, None]), "whole numbers, got None"),
        (_set("layers", 0, "kept_heads", [1, "a"]), "whole numbers, got 'a'"),
        (_set("layers", 0, "kept_heads", [True, 2]), "whole numbers, got True"),
        (_set("dims", "stacks", 0, "name", ["encoder"]), "name of stack 0 .* should be text"),
        (_set("dims", "stacks", 0, "num_layers", 10**12), r"num_layers should be .* to 16777216"),
        (_set("dims", "stacks", 0, "intermediate_size", 10**9), "intermediate_size should be"),
        (_set("dims", "stacks", 0, "cross_attention", 1), "cross_attention is true or false"),
        (_set("dims", "model_type", 3), "model_type of the plan's dims should be text"),
        (_set("config_hash", 5), "config_hash should be a str, got int"),
        (_set("made_by", []), "made_by should be a dict, got list"),
        (_set("layers", 0, "kept_neurons", 10**30), "does not fit in 64 bits"),
        (_set("made_by", "deep", eval("[" * 70 + "]" * 70)), "nested more than 64 levels"),
    ],
)
def test_a_plan_of_another_shape_is_refused(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    data = _plan()
    change(data)
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(NirvanaError, match=message):
        PruningPlan.load(tmp_path / "plan.json")


def test_60000_descending_indices_are_refused_in_a_moment() -> None:
    data = _plan()
    data["dims"]["stacks"][0]["intermediate_size"] = 60_000
    data["layers"][0]["kept_neurons"] = list(range(59_999, -1, -1))
    started = time.process_time()
    with pytest.raises(NirvanaError, match="kept neurons must be ascending"):
        PruningPlan.from_json(data)
    data["layers"][0]["kept_neurons"] = [0, 1, *range(1, 59_000)]
    with pytest.raises(NirvanaError, match="neuron 1 is there twice"):
        PruningPlan.from_json(data)
    assert time.process_time() - started < 10  # each index counted anew took minutes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "its top level: expected an object, got null"),
        ({"architectures": 5}, "architectures: expected a list or null, got 5"),
        ({"architectures": [5]}, r"architectures\[0\]: expected text, got 5"),
        ({"vocab_size": "9"}, 'vocab_size: expected a whole number or null, got "9"'),
        ({"nirvana": [1]}, "nirvana: expected an object or null, got a list"),
    ],
)
def test_a_config_of_another_shape_is_refused(config: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(NirvanaError, match=rf"config\.json cannot be read: {message}"):
        read_config_file(tmp_path)


def test_a_wiring_of_another_shape_is_refused() -> None:
    for wiring in (None, 5, {"model_type": "x"}, {"model_type": "x", "stacks": [{"name": 1}]}):
        with pytest.raises(NirvanaError, match=r"nirvana\.wiring of the model's config cannot be"):
            Wiring.from_json(wiring)


@pytest.mark.parametrize(
    "change",
    [
        _set("files", "a", {"modified_ns": 0, "sha256": ""}),
        _set("files", "a", {"modified_ns": 0, "size_bytes": 1}),
        _set("result", 5),
        _set("key", None),
        _set("digest", 1),
    ],
)
def test_a_stage_manifest_of_another_shape_is_a_damaged_one(
    change: Callable[[Any], None], tmp_path: Path
) -> None:
    manifest: dict[str, Any] = {"key": "k", "digest": "d", "files": {}, "result": {}}
    folder = StageFolder(run_dir=tmp_path, name="prune")
    folder.final.mkdir()
    path = folder.final / "manifest.json"
    path.write_text(json.dumps(manifest))
    assert folder.read_manifest() == manifest
    change(manifest)
    path.write_text(json.dumps(manifest))
    assert folder.read_manifest() is None
    path.write_text('{"key": ' + "[" * 100_000)
    assert folder.read_manifest() is None


def test_a_key_file_without_its_start_is_no_interrupted_stage(tmp_path: Path) -> None:
    folder = StageFolder(run_dir=tmp_path, name="prune")
    folder.partial.mkdir()
    (folder.partial / "key.json").write_text('{"key": "k", "num_attempts": 1}')
    assert folder.read_interrupted() is None


def test_a_text_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    about = {"classifier": "c", "labels": "l", "max_length": 8, "pad_id": 0, "pad_token": "p"}
    (tmp_path / "text.json").write_text(json.dumps({"tokenizer": 1.5, **about}))
    with pytest.raises(NirvanaError, match=r"text\.json .*tokenizer: expected text, got 1\.5"):
        read_text_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pad_id": -1}, "pad_id must be 0 to 2147483647, got -1"),
        ({"max_length": 0}, "max_length must be 1 to 2147483647, got 0"),
        ({"max_length": 2**63 - 1}, "max_length must be 1 to"),
        ({"num_answers": -7}, "num_answers must be 1 to"),
    ],
)
def test_numbers_that_no_tokenizer_takes_are_refused(
    tmp_path: Path, changes: dict[str, int], told: str
) -> None:
    about = {"tokenizer": "t", "classifier": "c", "labels": "l", "pad_token": "[PAD]"}
    text = {**about, "max_length": 8, "pad_id": 0, **changes}
    (tmp_path / "text.json").write_text(json.dumps(text))
    with pytest.raises(NirvanaError, match=told):
        read_text_model(tmp_path)


def test_an_export_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text('{"verification": {"passed": 1}}')
    with pytest.raises(NirvanaError, match=r"verification\.passed: expected true or false, got 1"):
        inspect_export(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("mlp", "kept", [0, 16, 16]), "mlp should rise from 0 to 16 kept units"),
        (_set("mlp", "latency_ms", [0, 2, 1]), "a latency that does not fall"),
        (_set("attention", "kept", [0, 3]), "attention should rise from 0 to 4 kept units"),
        (_set("block_ms", -1), "no negative latency"),
        (_set("dense_ms", 0.5), "less before and after them"),
        (_set("block_ms", "1"), 'block_ms: expected a number, got "1"'),
    ],
)
def test_a_latency_table_that_no_measurement_gives_is_refused(
    change: Callable[[Any], None], message: str
) -> None:
    table: dict[str, Any] = {
        "format": "nirvana-latency-table-1",
        "stack": _plan()["dims"]["stacks"][0],
        "attention": {"kept": [0, 4], "latency_ms": [0, 1]},
        "mlp": {"kept": [0, 8, 16], "latency_ms": [0, 1, 2]},
        "block_ms": 1,
        "dense_ms": 9,
        "rest_ms": 1,
        "measured": {},
        "name": "nanoseconds",
    }
    assert LatencyTable.from_json(table).dense_ms == 9
    change(table)
    with pytest.raises(NirvanaError, match=message):
        LatencyTable.from_json(table)
