"""Quantizes a float32 graph to 8-bit integers with ONNX Runtime's quantizer, for CPUs.

Dynamic: weights are integers, activations become integers while the graph runs. Static: activations
have fixed scales, measured on calibration inputs, and the graph says so by Q/DQ pairs. Either way
products of two activations (inside attention), norms and softmax stay in float32.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pruning.errors import MissingExtraError, NirvanaError

if TYPE_CHECKING:
    import onnx

Feeds = Mapping[str, NDArray[Any]]

# Named, because the quantizer breaks on opset-23 `Attention`. It makes `Gemm` a `MatMul` and an
# `Add` first. `Gather`: token embeddings are most of a small model's bytes.
_DYNAMIC_OPS = ["MatMul", "Gather"]
# A table that is looked up does no arithmetic: a Q/DQ pair would only add rounding to what follows.
_STATIC_OPS = ["MatMul", "Gemm"]


def quantise_dynamic(model: onnx.ModelProto, out_path: Path) -> None:
    """Write a copy of `model` with 8-bit weights, a scale for each output channel."""
    quantisation = _import_quantiser()
    with _without_warnings():
        quantisation.quantize_dynamic(
            model,
            out_path,
            op_types_to_quantize=_DYNAMIC_OPS,
            per_channel=True,  # the least cosine to float32 was .990, one scale a tensor gave .961
            weight_type=quantisation.QuantType.QInt8,
        )


def quantise_static(
    model: onnx.ModelProto,
    out_path: Path,
    calibration: Iterable[Feeds],
    *,
    symmetric: bool = False,
) -> None:
    """Write a copy of `model` with Q/DQ pairs, whose scales are the ranges of `calibration`.

    With `symmetric`, zero points are 0 and biases stay floats, as TensorRT asks for; without, CPUs
    are faster and ranges that lie on one side of 0 are finer.

    Raises:
        NirvanaError: there is no calibration input, or the graph cannot run one.
    """
    quantisation = _import_quantiser()
    feeds = [dict(feed) for feed in calibration]
    if not feeds:
        raise NirvanaError(
            "int8-static needs inputs to measure the ranges of activations on, got none. Give "
            "calibration inputs, or use int8, which measures while it runs."
        )
    try:
        with _without_warnings():
            quantisation.quantize_static(
                model,
                out_path,
                _make_reader(quantisation, feeds),
                quant_format=quantisation.QuantFormat.QDQ,
                op_types_to_quantize=_STATIC_OPS,
                per_channel=True,
                activation_type=getattr(quantisation.QuantType, "QInt8" if symmetric else "QUInt8"),
                weight_type=quantisation.QuantType.QInt8,
                nodes_to_exclude=_name_activation_products(model),
                extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
            )
    except Exception as error:  # ONNX Runtime's errors have no base of their own.
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NirvanaError(f"the graph could not be calibrated: {first_line}") from error


def _name_activation_products(model: onnx.ModelProto) -> list[str]:
    """Return the names of products of two activations; give names, in place, to those without."""
    weights = {tensor.name for tensor in model.graph.initializer}
    names = []
    for number, node in enumerate(model.graph.node):
        if node.op_type in _STATIC_OPS and node.input[1] not in weights:
            node.name = node.name or f"product_{number}"
            names.append(node.name)
    return names


def _import_quantiser() -> Any:
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime, which quantizes to int8,", "cpu") from error
    return quantization


def _make_reader(quantisation: Any, feeds: list[dict[str, NDArray[Any]]]) -> object:
    class Reader(quantisation.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._waiting = iter(feeds)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._waiting, None)

    return Reader()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the quantizer from advising a preprocessing that our graphs do not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
