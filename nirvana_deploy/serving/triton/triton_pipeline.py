"""Text in, label out: a tokenizer, a classifier and its labels as one model of Triton."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nirvana_deploy.serving.onnx_signature import OnnxSignature, TensorSignature
from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.server.serve_config import MAX_TEXT_CHARS
from nirvana_deploy.serving.text_model_file import (
    LABELS_FILE,
    TEXT,
    TOKENIZER_FILE,
    TextModelFile,
    describe_answers,
)
from nirvana_deploy.serving.text_parts import TextParts
from nirvana_deploy.serving.triton.triton_schema import CONFIG_NAME, add_tensor, load_schema
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError

_MODELS_DIR = Path(__file__).parent / "models"


def write_pipeline(
    repository: Path, parts: TextParts, signature: OnnxSignature, config: PackageConfig
) -> None:
    """Write three more models beside the classifier: its tokenizer, its labels, and all together.

    Raises NirvanaError for a graph that is no classifier of text, or has other labels.
    """
    _check_classifier(parts, signature)
    tokenizer, labels, whole = (
        f"{config.model_name}_{part}" for part in ("tokenizer", "label", "text")
    )
    logits = signature.outputs[0]
    settings = {
        "max_length": str(parts.max_length),
        "max_text_chars": str(MAX_TEXT_CHARS),
        "pad_id": str(parts.pad_id),
        "pad_token": parts.pad_token,
        "file_sha256": hash_file(parts.tokenizer_path),
    }
    folder = _write_python_model(
        repository, tokenizer, "tokenize_text.py", (TEXT,), signature.inputs, settings, config
    )
    shutil.copyfile(parts.tokenizer_path, folder / TOKENIZER_FILE)
    names = (json.dumps(list(parts.labels)) + "\n").encode()
    settings = {"file_sha256": hashlib.sha256(names).hexdigest(), "score_kind": parts.score_kind}
    answers = describe_answers(parts.num_answers)
    folder = _write_python_model(
        repository, labels, "name_label.py", (logits,), answers, settings, config
    )
    (folder / LABELS_FILE).write_bytes(names)
    text_model = TextModelFile(
        tokenizer=tokenizer,
        classifier=config.model_name,
        labels=labels,
        max_length=parts.max_length,
        pad_id=parts.pad_id,
        pad_token=parts.pad_token,
        score_kind=parts.score_kind,
        num_answers=parts.num_answers,
    )
    _write_ensemble(repository, whole, text_model, signature, config)
    text_model.write(repository / whole / "1")


def _write_python_model(
    repository: Path,
    name: str,
    source: str,
    inputs: Sequence[TensorSignature],
    outputs: Sequence[TensorSignature],
    settings: dict[str, str],
    config: PackageConfig,
) -> Path:
    """Write a model of the Python backend and return the folder of its version."""
    schema = load_schema()
    message = schema.ModelConfig(
        name=name,
        backend="python",
        max_batch_size=config.max_batch_size,
        instance_group=[
            schema.ModelInstanceGroup(count=1, kind=schema.ModelInstanceGroup.KIND_CPU)
        ],
    )
    _add_tensors(message, inputs, outputs)
    for key, value in settings.items():
        message.parameters[key].string_value = value
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    shutil.copyfile(_MODELS_DIR / source, folder / "model.py")
    _write_config(repository / name, message)
    return folder


def _write_ensemble(
    repository: Path,
    name: str,
    parts: TextModelFile,
    signature: OnnxSignature,
    config: PackageConfig,
) -> None:
    schema = load_schema()
    message = schema.ModelConfig(
        name=name, platform="ensemble", max_batch_size=config.max_batch_size
    )
    _add_tensors(message, parts.signature.inputs, parts.signature.outputs)
    tokens = {tensor.name: tensor.name for tensor in signature.inputs}
    # -1: the newest version of the classifier, so that a rollout reaches the text model too.
    steps = (
        (parts.tokenizer, {"text": "text"}, tokens),
        (parts.classifier, tokens, {"logits": "logits"}),
        (parts.labels, {"logits": "logits"}, {"label": "label", "score": "score"}),
    )
    for model, inputs, outputs in steps:
        message.ensemble_scheduling.step.add(
            model_name=model, model_version=-1, input_map=inputs, output_map=outputs
        )
    (repository / name / "1").mkdir(parents=True)
    _write_config(repository / name, message)


def _check_classifier(parts: TextParts, signature: OnnxSignature) -> None:
    outputs = [tensor for tensor in signature.outputs if tensor.name == "logits"]
    if len(signature.outputs) != 1 or not outputs or len(outputs[0].dims) != 1:
        found = ", ".join(f"{tensor.name} {list(tensor.dims)}" for tensor in signature.outputs)
        raise NirvanaError(
            f"A text model needs a classifier, whose one output is logits [classes] a row; this "
            f"graph gives {found}. Package it without a tokenizer."
        )
    if outputs[0].dims[0] != len(parts.labels):
        raise NirvanaError(
            f"The graph has {outputs[0].dims[0]} classes, and the checkpoint names "
            f"{len(parts.labels)}. Give the checkpoint that the graph was exported from."
        )


def _add_tensors(
    message: Any, inputs: Sequence[TensorSignature], outputs: Sequence[TensorSignature]
) -> None:
    for tensor in inputs:
        add_tensor(message.input.add(), tensor)
    for tensor in outputs:
        add_tensor(message.output.add(), tensor)


def _write_config(model_dir: Path, message: object) -> None:
    from google.protobuf import text_format

    text = text_format.MessageToString(message)
    (model_dir / CONFIG_NAME).write_text(text, encoding="utf-8")
