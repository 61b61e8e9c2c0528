"""Writes an ONNX file in another number format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from exporters.export_config import GRAPH_PRECISIONS, GraphPrecision
from exporters.graphs.load_graph import load_graph, read_precision
from exporters.graphs.onnx_files import explain_malformed
from exporters.precision.half_precision import convert_graph
from exporters.precision.int8_graph import Feeds, quantise_dynamic, quantise_static
from pruning.errors import NirvanaError
from pruning.write_aside import write_files

# What the quantizer holds in memory is one protobuf message, which ends here.
MAX_QUANTISED_BYTES = 2**31 - 1
# Weights beyond this go into a file beside the graph.
_EXTERNAL_DATA_BYTES = 1_500_000_000
_HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionOutcome:
    """What became of a graph.

    Attributes:
        kept_float: by operator, the nodes that compute in float32 though the rest does not.
    """

    precision: GraphPrecision
    size_bytes: int
    kept_float: dict[str, int]

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return asdict(self)


def convert_precision(
    source: Path,
    out: Path,
    precision: GraphPrecision,
    *,
    calibration: Iterable[Feeds] | None = None,
    symmetric: bool = False,
) -> PrecisionOutcome:
    """Write the float32 graph at `source` to `out` in another precision; weights beside it.

    fp16 and bf16 read and write one weight after the other, whatever their size. int8-static needs
    `calibration`: inputs by name, and for TensorRT to be `symmetric`. Written aside, and renamed
    when whole.

    Raises:
        NirvanaError: `source` is no valid float32 graph, or cannot be had in this precision.
    """
    if precision not in GRAPH_PRECISIONS[1:]:
        raise NirvanaError(
            f"precision must be one of {', '.join(GRAPH_PRECISIONS[1:])}, got {precision!r}."
        )
    graph = load_graph(source)
    found = read_precision(graph)
    if found != "fp32":
        raise NirvanaError(f"Expected a graph in fp32 to convert, {source} is in {found} already.")
    try:
        with explain_malformed(source), write_files(out) as aside:
            kept_float = _write(source, aside / out.name, precision, calibration, symmetric)
            size_bytes = sum(path.stat().st_size for path in aside.iterdir())
    except NirvanaError as error:
        raise NirvanaError(f"{source} cannot be had in {precision}: {error}") from error
    return PrecisionOutcome(precision=precision, size_bytes=size_bytes, kept_float=kept_float)


def _write(
    source: Path,
    out: Path,
    precision: GraphPrecision,
    calibration: Iterable[Feeds] | None,
    symmetric: bool,
) -> dict[str, int]:
    """Write the graph, and return the nodes that stay in float32."""
    if precision in _HALVES:
        return _write_half(source, out, _HALVES[precision])
    weights_bytes = _count_bytes(source)
    if weights_bytes > MAX_QUANTISED_BYTES:
        raise NirvanaError(
            f"it has {weights_bytes} bytes of weights, and ONNX Runtime's quantizer takes "
            f"{MAX_QUANTISED_BYTES}. Use fp16 or bf16, which have no such limit."
        )
    model = onnx.load(str(source))
    if precision == "int8":
        quantise_dynamic(model, out)
    else:
        quantise_static(model, out, calibration or (), symmetric=symmetric)
    return _count_products(onnx.load(str(out), load_external_data=False))


def _write_half(source: Path, out: Path, dtype: ir.DataType) -> dict[str, int]:
    model = ir.load(source)
    outcome = convert_graph(model, dtype)
    weights = [value.const_value for value in model.graph.initializers.values()]
    size_bytes = sum(weight.nbytes for weight in weights if weight is not None)
    external = f"{out.name}.data" if size_bytes > _EXTERNAL_DATA_BYTES else None
    ir.save(model, out, external_data=external)
    return outcome.kept_float


def _count_bytes(source: Path) -> int:
    weights = (value.const_value for value in ir.load(source).graph.initializers.values())
    return sum(weight.nbytes for weight in weights if weight is not None)


def _count_products(model: onnx.ModelProto) -> dict[str, int]:
    """Return the products that are left in float32: in a Q/DQ graph, those that no pair feeds."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    left = [
        node.op_type
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and made_by.get(node.input[0]) != "DequantizeLinear"
    ]
    return dict(Counter(left))
