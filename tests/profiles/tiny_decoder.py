"""A decoder's graph that is written by hand: its cache keeps the tokens, its logits their sum."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCAB = 99


def save_decoder(path: Path) -> Path:
    """Save `input_ids, attention_mask, cache -> logits, cache`, the sum of all live tokens next.

    The cache is [batch, 1, past, 1], floats; logits are 1 at the sum modulo 99, 0 elsewhere.
    """
    numbers = {
        "heads": np.array([1, 3], np.int64),
        "axes": np.array([1, 2, 3], np.int64),
        "modulus": np.array(VOCAB, np.float32),
        "depth": np.array([VOCAB], np.int64),
        "off_on": np.array([0, 1], np.float32),
        "last": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["ids", "heads"], ["new"]),
        helper.make_node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "heads"], ["mask4"]),
        helper.make_node("Mul", ["present.0.key", "mask4"], ["live"]),
        helper.make_node("ReduceSum", ["live", "axes"], ["sum"], keepdims=0),
        helper.make_node("Mod", ["sum", "modulus"], ["next"], fmod=1),
        helper.make_node("Cast", ["next"], ["index"], to=TensorProto.INT64),
        helper.make_node("OneHot", ["index", "depth", "off_on"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "last"], ["logits"]),
    ]
    tokens = {"input_ids": "sequence", "attention_mask": "total_sequence"}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", length])
        for name, length in tokens.items()
    ]
    cache, longer = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, length, 1])
        for name, length in (
            ("past_key_values.0.key", "past_sequence"),
            ("present.0.key", "past_sequence + sequence"),
        )
    )
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, VOCAB])
    graph = helper.make_graph(
        nodes,
        "decoder",
        [*inputs, cache],
        [logits, longer],
        [numpy_helper.from_array(value, name) for name, value in numbers.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path
