from pathlib import Path

import onnx
import pytest

from exporters.export_config import ExportConfig
from exporters.export_stage import check_promised
from exporters.trace.list_parts import list_parts
from pruning.errors import NirvanaError
from tests.exporters.conftest import Exported


def test_a_traced_graph_has_what_its_part_promises(llama: Exported) -> None:
    (part,) = list_parts(llama.model, ExportConfig())
    check_promised(llama.onnx / "model.onnx", part)


@pytest.mark.parametrize(("name", "axis", "dim"), [("input_ids", 0, 4), ("attention_mask", 1, "3")])
def test_a_dimension_that_froze_is_refused(
    llama: Exported, tmp_path: Path, name: str, axis: int, dim: int | str
) -> None:
    (part,) = list_parts(llama.model, ExportConfig())
    model = onnx.load(llama.onnx / "model.onnx")
    value = next(value for value in model.graph.input if value.name == name)
    found = value.type.tensor_type.shape.dim[axis]
    found.Clear()
    if isinstance(dim, int):
        found.dim_value = dim
    else:
        found.dim_param = dim
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(NirvanaError, match=rf"should have the inputs .*it has .*{dim}"):
        check_promised(tmp_path / "model.onnx", part)


def test_a_file_that_is_no_graph_is_refused(llama: Exported, tmp_path: Path) -> None:
    (part,) = list_parts(llama.model, ExportConfig())
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(NirvanaError, match="is not a valid ONNX file"):
        check_promised(tmp_path / "model.onnx", part)


def test_types_that_contradict_each_other_are_refused(llama: Exported, tmp_path: Path) -> None:
    (part,) = list_parts(llama.model, ExportConfig())
    model = onnx.load(llama.onnx / "model.onnx")
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(NirvanaError, match="is not a valid ONNX file"):
        check_promised(tmp_path / "model.onnx", part)
