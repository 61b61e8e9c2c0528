"""Runners whose runs take made-up time on a made-up clock, and a tiny ONNX encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from profiles.runners.runner import Tensors, TensorSpec

HIDDEN, VOCAB = 6, 50


class FakeClock:
    """Stands still unless a fake run moves it."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class FakeRunner:
    """Takes `cost(number of this run, seconds on the clock)` seconds a run, and keeps a log."""

    def __init__(
        self,
        clock: FakeClock,
        cost: Callable[[int, float], float],
        *,
        name: str = "fake",
        log: list[str] | None = None,
        input_names: tuple[str, ...] = ("input_ids", "attention_mask"),
    ) -> None:
        self.name = name
        self.inputs = tuple(
            TensorSpec(name=input_name, dtype=np.dtype(np.int64), shape=("batch", "sequence"))
            for input_name in input_names
        )
        self.log = [] if log is None else log
        self.num_runs = 0
        self.bound: list[Tensors] = []
        self._clock, self._cost = clock, cost

    def bind(self, inputs: Tensors) -> Callable[[], Tensors]:
        self.bound.append(inputs)
        return self._run

    def _run(self) -> Tensors:
        self._clock.seconds += self._cost(self.num_runs, self._clock.seconds)
        self.num_runs += 1
        self.log.append(self.name)
        return {}

    def describe(self) -> dict[str, Any]:
        return {"runtime": "fake"}


def noisy(seconds: float, spread: float = 0.01, seed: int = 0) -> Callable[[int, float], float]:
    """Return a cost around `seconds`, its logarithm normal."""
    draw = np.random.default_rng(seed)
    return lambda _run, _now: seconds * float(np.exp(spread * draw.normal()))


def make_encoder(seed: int = 0, *, repeats: int = 1) -> onnx.ModelProto:
    """Return embed -> mask -> mean -> logits, with free batch and length, and a live mask."""
    draw = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name)
        for name, shape in (("table", (VOCAB, HIDDEN)), ("head", (HIDDEN, 3)))
    ]
    weights.append(numpy_helper.from_array(np.array([2], np.int64), "last"))
    weights.append(numpy_helper.from_array(np.array([1], np.int64), "middle"))
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["embedded", "mask3"], ["x0"]),
        *(helper.make_node("Tanh", [f"x{i}"], [f"x{i + 1}"]) for i in range(repeats)),
        helper.make_node("ReduceMean", [f"x{repeats}", "middle"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["logits"]),
    ]
    shape = ("batch", "sequence")
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 3))],
        weights,
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="tests")


def save_encoder(path: Path, seed: int = 0, **options: Any) -> Path:
    onnx.save(make_encoder(seed, **options), path)
    return path
