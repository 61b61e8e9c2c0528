"""A classifier of text that is a few nodes large, its checkpoint folder, and an engine's folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from exporters.engines.engine_manifest import EngineManifest, EngineResult
from pruning.checkpoints.file_hash import hash_file

WORDS = ("[PAD]", "[UNK]", "[CLS]", "the", "first", "text", "a", "word", "that", "is", "longer")
LABELS = ("low", "middle", "high")


def make_classifier(seed: int = 0) -> onnx.ModelProto:
    """Return a graph of the mean embedding of the rows' live tokens, as logits of three classes."""
    draw = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(3 * draw.normal(size=(50, 3)).astype(np.float32), "table"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["embedded", "column"], ["live"]),
        helper.make_node("ReduceSum", ["live", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "one"], ["at_least_one"]),
        helper.make_node("Div", ["sum", "at_least_one"], ["logits"]),
    ]
    weights.append(numpy_helper.from_array(np.array([1], np.float32), "one"))
    shape = ("batch", "sequence")
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, shape)
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 3))]
    graph = helper.make_graph(nodes, "classifier", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save_classifier(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(make_classifier(seed), path)
    return path


def save_checkpoint(folder: Path) -> Path:
    """Write the files of a checkpoint that text needs."""
    folder.mkdir(parents=True)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"max_position_embeddings": 40, "id2label": dict(enumerate(LABELS))}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"pad_token": "[PAD]", "model_max_length": 1000}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def save_engine(folder: Path, onnx_path: Path, flavour: str = "tensorrt", most: int = 32) -> Path:
    """Write the folder of an engine that is none: its manifest vouches for a few bytes."""
    folder.mkdir(parents=True)
    (folder / "model.engine").write_bytes(b"no engine")
    shapes = {"min": [1, 1], "opt": [8, 24], "max": [most, 128]}
    result = EngineResult(
        flavour=flavour,
        version="10.16",
        precision_asked="fp16",
        precision_found={},
        compute_capabilities=("sm86",),
        num_attention_layers=0,
        num_fused_attentions=0,
        engine_path="model.engine",
        engine_size_bytes=9,
        build_seconds=1.0,
        onnx_sha256=hash_file(onnx_path),
        optimisation_profile={"input_ids": shapes, "attention_mask": shapes},
        warnings=(),
    )
    EngineManifest(
        result=result,
        engine_sha256=hash_file(folder / "model.engine"),
        onnx_name=onnx_path.name,
        onnx_data_sha256={},
        versions={},
    ).write(folder)
    return folder
