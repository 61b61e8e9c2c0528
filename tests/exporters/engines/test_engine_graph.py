from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from exporters.engines.engine_graph import count_attentions, load_graph
from pruning.errors import NirvanaError
from tests.exporters.engines.engine_models import export_bert, save_op


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=r"none\.onnx is missing"):
        load_graph(tmp_path / "none.onnx")


def test_attentions_are_counted_in_either_form(tmp_path: Path) -> None:
    bert = export_bert(tmp_path / "bert.onnx", (4, 1, 2))
    assert count_attentions(load_graph(bert)) == 3
    op = save_op(tmp_path / "op.onnx", "Attention", ("batch", 4, "sequence", 16), num_inputs=3)
    assert count_attentions(load_graph(op)) == 1
    logits = save_op(tmp_path / "softmax.onnx", "Softmax", ("batch", 4))
    assert count_attentions(load_graph(logits)) == 0


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "no_data"])
def test_a_corrupt_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = save_op(tmp_path / "op.onnx", "Relu", ("batch", 4))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "text":
        # TensorRT's own parser takes this one for a graph without nodes.
        path.write_bytes(b"hello" * 100)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        tensor = numpy_helper.from_array(np.ones(2, np.float32), "w")
        graph = helper.make_graph([], "graph", [], [], [tensor])
        model = helper.make_model(graph)
        onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
        (tmp_path / "w.data").unlink()
    with pytest.raises(NirvanaError, match=r"op\.onnx is not a valid ONNX file.*Export it again"):
        load_graph(path)
