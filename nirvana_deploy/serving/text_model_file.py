"""The file in a package's text model that says how its parts make a label of a text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from nirvana_deploy.serving.onnx_signature import OnnxSignature, TensorSignature
from pruning.strict_json import convert_json, read_object

TEXT_FILE = "text.json"
TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
# Of the tokens a request is padded to; the longest length is a multiple of it.
LENGTH_STEP = 16
TEXT = TensorSignature(name="text", data_type="TYPE_STRING", dims=(1,))
LABEL = TensorSignature(name="label", data_type="TYPE_STRING", dims=(1,))
SCORE = TensorSignature(name="score", data_type="TYPE_FP32", dims=(1,))
TEXT_SIGNATURE = OnnxSignature(inputs=(TEXT,), outputs=(LABEL, SCORE), data_files=())


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModelFile:
    """Name the models that a text goes through.

    Attributes:
        tokenizer, classifier, labels: names of models in the same repository.
        max_length: in tokens; longer text is cut.
    """

    tokenizer: str
    classifier: str
    labels: str
    max_length: int
    pad_id: int
    pad_token: str

    def write(self, version_dir: Path) -> None:
        """Write the file into the folder of the text model's version."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (version_dir / TEXT_FILE).write_text(text, encoding="utf-8")


def read_text_model(version_dir: Path) -> TextModelFile:
    """Read the file back; raise NirvanaError where it is none."""
    path = version_dir / TEXT_FILE
    remedy = "Package the model again."
    found = read_object(path, remedy=remedy)
    return convert_json(found, TextModelFile, name=str(path), remedy=remedy, exact=True)
