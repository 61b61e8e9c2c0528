"""Our own graphs, with caches: pruned, each has the inputs and outputs of the repacked model."""

from __future__ import annotations

import onnx
import pytest

from exporters.export_config import ExportConfig
from exporters.surgeon.prune_onnx import prune_onnx
from exporters.trace.list_parts import list_parts
from pruning.cutting.repack import repack
from tests.exporters.trace.traced import Traced, assert_same_as_torch, trace_tiny
from tests.pruning.tiny_models import PLANS, make_tiny


def read_signature(path):
    graph = onnx.load(path, load_external_data=False).graph
    return [
        (value.name, tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim))
        for value in (*graph.input, *graph.output)
    ]


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """By family, the dense graphs: a trace takes seconds."""
    found = {}

    def trace(name: str, graphs: str):
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            found[name] = trace_tiny(folder, name, graphs=graphs)
        return found[name]

    return trace


@pytest.mark.parametrize("plan_name", PLANS)
@pytest.mark.parametrize(
    ("name", "graphs"),
    [
        ("bert", "merged"),
        ("llama", "merged"),
        pytest.param("t5", "split", marks=pytest.mark.slow),
        pytest.param("gpt2", "split", marks=pytest.mark.slow),
        pytest.param("phi3", "merged", marks=pytest.mark.slow),
    ],
)
def test_the_pruned_graph_is_what_a_trace_of_the_repacked_model_promises(
    name, graphs, plan_name, traced, tmp_path
):
    dense = traced(name, graphs)
    model = make_tiny(name, "eager")
    plan = PLANS[plan_name](model)
    small = repack(model, plan).eval()
    for part in list_parts(small, ExportConfig(graphs=graphs)):
        out = tmp_path / f"{part.name}.onnx"
        prune_onnx(dense[part.name].path, plan, out)
        promised = [(tensor.name, tuple(tensor.shape)) for tensor in (*part.inputs, *part.outputs)]
        assert read_signature(out) == promised
        assert_same_as_torch(Traced(part, out))
