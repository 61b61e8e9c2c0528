from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from exporters.engines.engine_graph import (
    count_attentions,
    hash_structure,
    load_graph,
    name_blocks,
)
from pruning.errors import NirvanaError
from tests.exporters.engines.engine_models import export_bert, save_op


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"none\.onnx is missing"):
        load_graph(tmp_path / "none.onnx")


def test_a_folder_names_its_graphs(tmp_path: Path) -> None:
    for name in ("encoder_model", "decoder_model"):
        save_op(tmp_path / f"{name}.onnx", "Relu", ("batch", 4))
    with pytest.raises(NirvanaError, match=r"is a folder.*: decoder_model\.onnx, encoder_model"):
        load_graph(tmp_path)


def test_the_structure_is_all_but_the_weights(tmp_path: Path) -> None:
    def hash_of(op: str, weight: float, axis: int) -> str:
        tensors = [
            numpy_helper.from_array(np.full((2, 2), weight, np.float32), "w"),
            numpy_helper.from_array(np.array([axis], np.int64), "axis"),
        ]
        node = helper.make_node(op, ["w"], ["y"], name="n", doc_string=f"line {weight}")
        return hash_structure(helper.make_model(helper.make_graph([node], "g", [], [], tensors)))

    same = hash_of("Relu", 1.0, 0)
    assert hash_of("Relu", 2.0, 0) == same
    assert len({same, hash_of("Tanh", 1.0, 0), hash_of("Relu", 1.0, 1)}) == 3


def test_nodes_know_their_block(tmp_path: Path) -> None:
    blocks = name_blocks(load_graph(export_bert(tmp_path / "bert.onnx", (2, 1))))
    assert set(blocks.values()) == {"model.bert.encoder.layer.0", "model.bert.encoder.layer.1"}
    query = "/model/bert/encoder/layer.1/attention/self/query/MatMul"
    assert blocks[query] == "model.bert.encoder.layer.1"
    assert not [name for name in blocks if "embeddings" in name]


def test_attentions_are_counted_in_either_form(tmp_path: Path) -> None:
    bert = export_bert(tmp_path / "bert.onnx", (4, 1, 2))
    assert count_attentions(load_graph(bert)) == 3
    op = save_op(tmp_path / "op.onnx", "Attention", ("batch", 4, "sequence", 16), num_inputs=3)
    assert count_attentions(load_graph(op)) == 1
    logits = save_op(tmp_path / "softmax.onnx", "Softmax", ("batch", 4))
    assert count_attentions(load_graph(logits)) == 0


def test_lost_data_is_named(tmp_path: Path) -> None:
    path = tmp_path / "op.onnx"
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "w")
    model = helper.make_model(helper.make_graph([], "graph", [], [], [tensor]))
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    (tmp_path / "w.data").unlink()
    with pytest.raises(
        NirvanaError, match=r"w\.data is missing: op\.onnx keeps the data of w there"
    ):
        load_graph(path)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_corrupt_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = save_op(tmp_path / "op.onnx", "Relu", ("batch", 4))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "text":
        # TensorRT's own parser takes this one for a graph without nodes.
        path.write_bytes(b"hello" * 100)
    else:
        path.write_bytes(b"")
    with pytest.raises(NirvanaError, match=r"op\.onnx is not a valid ONNX file.*[^.]\. Export it"):
        load_graph(path)
