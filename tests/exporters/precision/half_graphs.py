"""Small graphs whose half-precision versions are right or wrong by what stays in float32."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from exporters.compare.onnx_graph import round_in_float
from exporters.onnx_session import open_session


def make_model(nodes: list, inputs: dict, outputs: dict, weights: dict) -> onnx.ModelProto:
    """Build a graph at opset 18; inputs and outputs are name: (type, shape)."""
    infos = [
        [helper.make_tensor_value_info(name, *spec) for name, spec in specs.items()]
        for specs in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", *infos, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def make_rotary() -> onnx.ModelProto:
    """Positions to the cosine and sine of their angles, as a traced Llama has them."""
    frequencies = (1e4 ** -(np.arange(0, 8, 2) / 8)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["position_ids"], ["positions"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["positions", "last"], ["column"]),
        helper.make_node("Mul", ["column", "frequencies"], ["angles"]),
        helper.make_node("Cos", ["angles"], ["cos"]),
        helper.make_node("Sin", ["angles"], ["sin"]),
        helper.make_node("Concat", ["cos", "sin"], ["both"], axis=-1),
    ]
    return make_model(
        nodes,
        {"position_ids": (TensorProto.INT64, ["batch", "sequence"])},
        {"both": (TensorProto.FLOAT, ["batch", "sequence", 8])},
        {"frequencies": frequencies, "last": np.array([-1], np.int64)},
    )


def make_rms_norm(square: str) -> onnx.ModelProto:
    """x / sqrt(mean(x^2) + eps), with the square as a `Pow` or as a `Mul`."""
    squared = ["x", "two"] if square == "Pow" else ["x", "x"]
    nodes = [
        helper.make_node(square, squared, ["squared"]),
        helper.make_node("ReduceMean", ["squared", "last"], ["mean"]),
        helper.make_node("Add", ["mean", "epsilon"], ["moved"]),
        helper.make_node("Sqrt", ["moved"], ["root"]),
        helper.make_node("Reciprocal", ["root"], ["inverse"]),
        helper.make_node("Mul", ["x", "inverse"], ["y"]),
    ]
    weights = {
        "two": np.array(2, np.float32),
        "last": np.array([-1], np.int64),
        "epsilon": np.array(1e-6, np.float32),
    }
    shape = (TensorProto.FLOAT, ["batch", 8])
    return make_model(nodes, {"x": shape}, {"y": shape}, weights)


def make_buckets() -> onnx.ModelProto:
    """Integers through a logarithm to integers, as T5 makes buckets of distances."""
    nodes = [
        helper.make_node("Cast", ["distance"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Log", ["float"], ["log"]),
        helper.make_node("Mul", ["log", "scale"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["bucket"], to=TensorProto.INT64),
    ]
    shape = (TensorProto.INT64, ["batch"])
    weights = {"scale": np.array(1000.0, np.float32)}
    return make_model(nodes, {"distance": shape}, {"bucket": shape}, weights)


def run_rounded(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Run a half-precision graph with the roundings that a GPU would make."""
    copy = ir.from_proto(model)
    round_in_float(copy)
    return open_session(ir.to_proto(copy).SerializeToString(), name="model.onnx").run(None, inputs)[
        0
    ]
