"""The file in a package's text model that says how its parts make labels and scores of a text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nirvana_deploy.serving.onnx_signature import OnnxSignature, TensorSignature
from pruning.errors import NirvanaError
from pruning.strict_json import convert_json, read_json, read_object

TEXT_FILE = "text.json"
TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
_LARGEST = 2**31 - 1  # of what tokenizers and graphs count by
# Of the tokens a request is padded to; the longest length is a multiple of it.
LENGTH_STEP = 16
TEXT = TensorSignature(name="text", data_type="TYPE_STRING", dims=(1,))
LABEL = TensorSignature(name="label", data_type="TYPE_STRING", dims=(1,))
SCORE = TensorSignature(name="score", data_type="TYPE_FP32", dims=(1,))

# How scores are made of logits: over classes of which one is right, over labels that are right or
# wrong each on their own, or the logits as they are, which a regression predicts.
ScoreKind = Literal["softmax", "sigmoid", "raw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModelFile:
    """Name the models that a text goes through.

    Attributes:
        tokenizer, classifier, labels: names of models in the same repository.
        max_length: in tokens; longer text is cut.
        score_kind: how scores are made of logits; files of older packages are all softmax.
        num_answers: labels, each with its score, that a text is answered with.
    """

    tokenizer: str
    classifier: str
    labels: str
    max_length: int
    pad_id: int
    pad_token: str
    score_kind: ScoreKind = "softmax"
    num_answers: int = 1

    @property
    def signature(self) -> OnnxSignature:
        """What a request gives and gets: a text, and its labels and scores."""
        label, score = describe_answers(self.num_answers)
        return OnnxSignature(inputs=(TEXT,), outputs=(label, score), data_files=())

    def write(self, version_dir: Path) -> None:
        """Write the file into the folder of the text model's version."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (version_dir / TEXT_FILE).write_text(text, encoding="utf-8")


def read_text_model(version_dir: Path) -> TextModelFile:
    """Read the file back; raise NirvanaError where it is none."""
    path = version_dir / TEXT_FILE
    remedy = "Package the model again."
    found = read_object(path, remedy=remedy)
    text_model = convert_json(found, TextModelFile, name=str(path), remedy=remedy, exact=True)
    for name, least, value in (
        ("max_length", 1, text_model.max_length),
        ("pad_id", 0, text_model.pad_id),
        ("num_answers", 1, text_model.num_answers),
    ):
        if not least <= value <= _LARGEST:
            raise NirvanaError(
                f"{path}: {name} must be {least} to {_LARGEST}, got {value}. {remedy}"
            )
    return text_model


def open_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a tokenizer.json; raise NirvanaError where it cannot be read."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no other class
        raise NirvanaError(
            f"{path} cannot be read as a tokenizer: {error}. Save the tokenizer again."
        ) from error


def read_labels(path: Path, text_model: TextModelFile) -> tuple[str, ...]:
    """Read the names of the labels, in the order of the logits.

    Raises NirvanaError where they cannot be read, or are not as many as the text model answers.
    """
    labels = read_json(path, list[str], remedy="Package the model again.")
    is_softmax = text_model.score_kind == "softmax"
    if is_softmax and len(labels) == 1:
        raise NirvanaError(
            f"{path} names one label, and a softmax over one logit is 1 for every text. Package "
            "the model again with this version, which serves such a model's own score."
        )
    if text_model.num_answers != (1 if is_softmax else len(labels)):
        raise NirvanaError(
            f"{path} names {len(labels)} labels, and {TEXT_FILE} has num_answers "
            f"{text_model.num_answers}. Package the model again."
        )
    return tuple(labels)


def describe_answers(num_answers: int) -> tuple[TensorSignature, TensorSignature]:
    """Return the outputs of a text model that answers with so many labels."""
    label, score = (
        TensorSignature(name=tensor.name, data_type=tensor.data_type, dims=(num_answers,))
        for tensor in (LABEL, SCORE)
    )
    return label, score


def score_labels(
    logits_BC: NDArray[Any], labels: tuple[str, ...] | list[str], kind: ScoreKind
) -> tuple[list[list[str]], NDArray[np.float32]]:
    """Return the labels [rows, answers] of logits [rows, classes], and the score of each.

    A softmax answers with the likeliest label and its probability; the others with every label in
    the model's order, by its sigmoid or its logit as it is.
    """
    logits_BC = logits_BC.astype(np.float64)
    if kind != "softmax":
        scores_BC = logits_BC if kind == "raw" else 0.5 * (1 + np.tanh(logits_BC / 2))
        return [list(labels) for _ in logits_BC], scores_BC.astype(np.float32)
    powers_BC = np.exp(logits_BC - logits_BC.max(axis=-1, keepdims=True))
    shares_BC = powers_BC / powers_BC.sum(axis=-1, keepdims=True)
    names = [[labels[index]] for index in shares_BC.argmax(axis=-1)]
    return names, shares_BC.max(axis=-1, keepdims=True).astype(np.float32)


def find_length_step(max_length: int) -> int:
    """Return what a request's length is rounded up to, which never leads beyond `max_length`."""
    return 1 if max_length % LENGTH_STEP else LENGTH_STEP
