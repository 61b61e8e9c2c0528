"""Holds a served text model against its parts, run here one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nirvana_deploy.serving.server.protocol_client import get_json
from nirvana_deploy.serving.triton.triton_package import MODEL_NAME, list_versions
from nirvana_deploy.serving.triton.triton_schema import CONFIG_NAME, read_config_file
from pruning.errors import NirvanaError
from pruning.strict_json import read_json

# Probabilities of two sessions of one graph.
_TOLERANCE = 1e-4
# Short and long rows in one request: padding must change nothing.
_TEXTS = (
    ("the first text",),
    ("", "a word", "a text that is a good deal longer than the others are, and more " * 8),
)


def compare_text(url: str, repository: Path, name: str) -> Iterator[float]:
    """Yield how far each answer's score is from that of its row alone, without padding.

    Raises NirvanaError for another label, or a score that is further off than rounding is.
    """
    tokenizer, model, labels = (
        repository / step.model_name
        for step in read_config_file(repository / name / CONFIG_NAME).ensemble_scheduling.step
    )
    for texts in _TEXTS:
        answers = _ask(url, name, texts)
        for text, label, score in zip(texts, *answers, strict=True):
            expected, highest = _run(text, tokenizer, model, labels)
            if label != expected or not abs(score - highest) <= _TOLERANCE:
                raise NirvanaError(
                    f"Served, {name} gives {label!r} ({score:.4f}) for {text[:30]!r}; its parts "
                    f"give {expected!r} ({highest:.4f}). Do not serve this package."
                )
            yield abs(score - highest)


def _ask(url: str, name: str, texts: tuple[str, ...]) -> tuple[list[str], list[float]]:
    request = {
        "name": "text",
        "shape": [len(texts), 1],
        "datatype": "BYTES",
        "data": list(texts),
    }
    answer = get_json(f"{url}/v2/models/{name}/infer", {"inputs": [request]})
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    return outputs["label"], outputs["score"]


def _run(text: str, tokenizer_dir: Path, model_dir: Path, labels_dir: Path) -> tuple[str, float]:
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "1" / "tokenizer.json"))
    tokenizer.no_padding()
    parameters = read_config_file(tokenizer_dir / CONFIG_NAME).parameters
    tokenizer.enable_truncation(int(parameters["max_length"].string_value))
    row = tokenizer.encode(text)
    columns: dict[str, Any] = {
        "input_ids": row.ids,
        "attention_mask": row.attention_mask,
        "token_type_ids": row.type_ids,
    }
    path = list_versions(model_dir)[-1] / MODEL_NAME
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    feeds = {
        node.name: np.array([columns[node.name]], types[node.type]) for node in session.get_inputs()
    }
    logits = session.run(["logits"], feeds)[0].astype(np.float64)[0]
    powers = np.exp(logits - logits.max())
    names = read_json(
        labels_dir / "1" / "labels.json", list[str], remedy="Package the model again."
    )
    return names[int(logits.argmax())], float(powers.max() / powers.sum())
