"""Holds a served text model against its parts, run here one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exporters.onnx_session import open_session
from nirvana_deploy.serving.server.protocol_client import get_json
from nirvana_deploy.serving.text_model_file import (
    LABELS_FILE,
    read_labels,
    read_text_model,
    score_labels,
)
from nirvana_deploy.serving.triton.triton_package import MODEL_NAME, list_versions
from nirvana_deploy.serving.triton.triton_schema import CONFIG_NAME, read_config_file
from pruning.errors import NirvanaError

# Scores of two sessions of one graph; a regression's by their size.
_TOLERANCE = 1e-4
# Short and long rows in one request: padding must change nothing, nor where a long one is cut.
_TEXTS = (
    ("the first text",),
    ("", "a word", "a text that is a good deal longer than the others are, and more " * 8),
    ("so a text goes on, and on; " * 2000,),
)


def compare_text(url: str, repository: Path, name: str) -> Iterator[float]:
    """Yield how far each answer's score is from that of its row alone, without padding.

    Raises NirvanaError for other labels, or a score that is further off than rounding is.
    """
    tokenizer, model, labels = (
        repository / step.model_name
        for step in read_config_file(repository / name / CONFIG_NAME).ensemble_scheduling.step
    )
    text_model = read_text_model(list_versions(repository / name)[-1])
    names = read_labels(labels / "1" / LABELS_FILE, text_model)
    for texts in _TEXTS:
        answers = _ask(url, name, texts)
        for text, label, score in zip(texts, *answers, strict=True):
            (expected,), (scores,) = score_labels(
                _run(text, tokenizer, model), names, text_model.score_kind
            )
            off = float(np.abs(np.array(score) - scores).max())
            if label != expected or not off <= _TOLERANCE * max(1.0, float(np.abs(scores).max())):
                raise NirvanaError(
                    f"Served, {name} gives {_list(label, score)} for {text[:30]!r}; its parts "
                    f"give {_list(expected, scores)}. Do not serve this package."
                )
            yield off


def _list(labels: list[str], scores: Any) -> str:
    return ", ".join(
        f"{label!r} ({float(score):.4f})" for label, score in zip(labels, scores, strict=True)
    )


def _ask(url: str, name: str, texts: tuple[str, ...]) -> tuple[list[list[str]], list[list[float]]]:
    request = {
        "name": "text",
        "shape": [len(texts), 1],
        "datatype": "BYTES",
        "data": list(texts),
    }
    answer = get_json(f"{url}/v2/models/{name}/infer", {"inputs": [request]})
    rows = {
        output["name"]: np.array(output["data"], dtype=object).reshape(len(texts), -1).tolist()
        for output in answer["outputs"]
    }
    return rows["label"], rows["score"]


def _run(text: str, tokenizer_dir: Path, model_dir: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "1" / "tokenizer.json"))
    tokenizer.no_padding()
    parameters = read_config_file(tokenizer_dir / CONFIG_NAME).parameters
    tokenizer.enable_truncation(int(parameters["max_length"].string_value))
    row = tokenizer.encode(text)
    columns: dict[str, object] = {
        "input_ids": row.ids,
        "attention_mask": row.attention_mask,
        "token_type_ids": row.type_ids,
    }
    path = list_versions(model_dir)[-1] / MODEL_NAME
    session = open_session(path, is_trusted=True)
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    feeds = {
        node.name: np.array([columns[node.name]], types[node.type]) for node in session.get_inputs()
    }
    return session.run(["logits"], feeds)[0]
