from pathlib import Path

import onnx
import pytest

from profiles.comparing.profile_artefacts import list_differences, read_graph_form
from pruning.errors import NirvanaError
from tests.profiles.fake_runners import make_encoder, save_encoder


def read(path: Path, model: onnx.ModelProto) -> object:
    onnx.save(model, path)
    return read_graph_form(path)


def test_a_graph_is_described(tmp_path: Path) -> None:
    form = read_graph_form(save_encoder(tmp_path / "model.onnx"))
    assert form.producer == "tests" and form.opsets == {"ai.onnx": 18}
    assert form.num_nodes == 7 and "Gather" in form.operators
    assert form.weight_types == {"FLOAT"}


def test_sizes_and_what_was_pruned_away_are_no_difference(tmp_path: Path) -> None:
    dense = read_graph_form(save_encoder(tmp_path / "dense.onnx", repeats=3))
    pruned = read_graph_form(save_encoder(tmp_path / "pruned.onnx", repeats=0))
    assert list_differences(dense, pruned) == []
    assert list_differences(pruned, dense) == ["the pruned graph alone has the operators Tanh"]


def test_each_other_difference_is_named(tmp_path: Path) -> None:
    dense = read_graph_form(save_encoder(tmp_path / "dense.onnx"))
    model = make_encoder()
    model.producer_name = "others"
    model.opset_import[0].version = 20
    model.graph.initializer[0].data_type = onnx.TensorProto.FLOAT16
    pruned = read(tmp_path / "pruned.onnx", model)
    assert list_differences(dense, pruned) == [
        "the graphs differ in form, producer: dense tests, pruned others",
        "the graphs differ in form, opset: dense ai.onnx 18, pruned ai.onnx 20",
        "the graphs differ in form, weight types: dense FLOAT, pruned FLOAT, FLOAT16",
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"nothing\.onnx is missing: expected an ONNX file"):
        read_graph_form(tmp_path / "nothing.onnx")


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(NirvanaError, match=r"broken\.onnx is not a readable ONNX file"):
        read_graph_form(tmp_path / "broken.onnx")
