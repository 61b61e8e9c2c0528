import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from exporters.compare.artefact import TokenFacts
from exporters.compare.checkpoint_artefact import open_checkpoint
from exporters.compare.comparison import compare_artefacts
from exporters.compare.onnx_artefact import open_onnx
from exporters.compare.open_artefact import open_pair
from pruning.errors import NirvanaError
from tests.exporters.conftest import Exported
from tests.exporters.engines.engine_folders import write_engine


def test_a_checkpoint_is_cut_into_the_graphs_of_the_other(llama: Exported) -> None:
    source = str(llama.checkpoint)
    merged, onnx_side = open_pair(source, str(llama.onnx))
    assert set(merged.graphs) == {"model"}
    assert onnx_side.name == str(llama.onnx)
    split = open_checkpoint(source, ("decoder_model", "decoder_with_past_model"))
    assert set(split.graphs) == {"decoder_model", "decoder_with_past_model"}


def test_opened_from_disk_they_are_equal(bert: Exported) -> None:
    comparison = compare_artefacts(*open_pair(str(bert.checkpoint), str(bert.onnx)))
    assert comparison.passed
    assert comparison.max_abs_difference < 1e-5


def test_a_checkpoint_equals_itself_bit_by_bit(bert: Exported) -> None:
    source = str(bert.checkpoint)
    assert compare_artefacts(*open_pair(source, source)).max_abs_difference == 0


def test_tokens_are_known_by_the_config_or_the_table(bert: Exported, tmp_path: Path) -> None:
    assert open_onnx(bert.onnx).facts == TokenFacts(num_tokens=99, num_types=2)
    shutil.copy(bert.onnx / "model.onnx", tmp_path)
    shutil.copy(bert.checkpoint / "config.json", tmp_path)
    facts = open_onnx(tmp_path / "model.onnx").facts
    assert facts == TokenFacts(
        num_tokens=99, num_types=2, pad_token=0, max_length=160, avoided=frozenset({0})
    )


def test_a_corrupt_config_is_refused(bert: Exported, tmp_path: Path) -> None:
    shutil.copy(bert.onnx / "model.onnx", tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(NirvanaError, match=r"config\.json cannot be read"):
        open_onnx(tmp_path)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"Expected a checkpoint .* ONNX .* or an engine .* got"):
        open_pair(str(tmp_path), str(tmp_path))
    (tmp_path / "other.onnx").write_bytes(b"")
    with pytest.raises(NirvanaError, match=r"Expected model\.onnx.*, found other\.onnx"):
        open_pair(str(tmp_path), str(tmp_path))
    with pytest.raises(NirvanaError, match="is not a valid ONNX file"):
        open_onnx(tmp_path / "none.onnx")
    with pytest.raises(NirvanaError, match="There is no model folder at"):
        open_pair(str(tmp_path / "none"), str(tmp_path / "none"))


def test_lost_external_data_is_refused(bert: Exported, tmp_path: Path) -> None:
    model = onnx.load(bert.onnx / "model.onnx")
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=256)
    assert compare_artefacts(bert.in_onnx(), open_onnx(path)).max_abs_difference < 1e-6
    (tmp_path / "weights").unlink()
    with pytest.raises(NirvanaError, match=r"weights is missing: model\.onnx keeps the data"):
        open_onnx(path)


def test_external_data_is_found_for_the_diverging_layer_too(bert: Exported, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = onnx.load(bert.onnx / "model.onnx")
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=256)
    graph = open_onnx(path).graphs["model"]
    feeds = {spec.name: np.array([[1, 1, 1]]) for spec in graph.inputs}
    assert list(graph.run_blocks(feeds)) == [0, 1]


def test_unknown_inputs_are_named(tmp_path: Path) -> None:
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy"]
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", infos[:1], infos[1:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "model.onnx")
    path = str(tmp_path / "model.onnx")
    with pytest.raises(NirvanaError, match="the input x is not known; known are input_ids"):
        compare_artefacts(*open_pair(path, path))


def test_an_engine_without_a_gpu_says_what_is_needed(bert: Exported, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    engine = tmp_path / "engine"
    write_engine(engine)
    with pytest.raises(
        NirvanaError, match=r"engine for compute capability 8\.9: .* an NVIDIA GPU .* none here"
    ):
        open_pair(str(bert.onnx), str(engine))


def test_an_engine_that_its_manifest_does_not_vouch_for_is_not_loaded(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    write_engine(engine)
    (engine / "model.engine").write_bytes(b"other")
    manifest = json.loads((engine / "engine.json").read_text())
    with pytest.raises(NirvanaError, match=rf"manifest says {manifest['engine_sha256'][:12]}"):
        open_pair(str(engine), str(engine))
