"""What one-shot pruning shows a model: batches of real text, without any padding."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.calibration.calibration_config import CalibrationConfig
from pruning.calibration.calibration_documents import Document, load_documents
from pruning.calibration.calibration_labels import LabelOrigin, label_groups
from pruning.calibration.calibration_rows import cut_chunks, group_rows
from pruning.errors import NirvanaError
from pruning.scoring.block_walk import Batch
from pruning.tasks.position_limit import check_length
from pruning.tasks.tasks import find_task
from pruning.write_aside import write_aside

__all__ = [
    "Calibration",
    "draw_calibration",
    "load_documents",
    "refuse_textless",
    "select_draw",
]

_FORMAT = "nirvana-calibration-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One draw.

    Attributes:
        batches: `input_ids` and `attention_mask` (ones) [rows, tokens], and labels of the task;
            on the CPU. All rows of a batch are equally long, those of two batches may not be.
        labels: where they come from: the text itself (language models), the documents' classes,
            or the model's own predictions.
    """

    batches: tuple[Batch, ...]
    labels: LabelOrigin

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads; those that an encoder-decoder writes are not among them."""
        return sum(batch["input_ids"].numel() for batch in self.batches)

    @property
    def num_sequences(self) -> int:
        """Rows of all batches."""
        return sum(len(batch["input_ids"]) for batch in self.batches)

    @property
    def sha256(self) -> str:
        """Hash of the batches' shapes and token ids."""
        digest = hashlib.sha256()
        for batch in self.batches:
            ids = batch["input_ids"].cpu().to(torch.int64).contiguous()
            digest.update(repr(tuple(ids.shape)).encode())
            digest.update(ids.numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write a safetensors file, whose metadata hold the hash and where the labels are from."""
        tensors = {
            f"{number}.{name}": tensor.cpu().clone()  # no two may share memory
            for number, batch in enumerate(self.batches)
            for name, tensor in batch.items()
        }
        about = {"format": _FORMAT, "labels": self.labels, "sha256": self.sha256}
        with write_aside(path) as aside:
            save_file(tensors, aside, metadata=about)

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            NirvanaError: there is no such file, or it is another one or damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise NirvanaError(f"Cannot read the calibration {path}: {error}.") from error
        if about.get("format") != _FORMAT or about.get("labels") not in get_args(LabelOrigin):
            raise NirvanaError(
                f"Expected a calibration that was saved by this version ({_FORMAT}) in {path}, "
                f"found {about.get('format', 'another safetensors file')}. Draw it again."
            )
        found = cls(batches=_ungroup(tensors), labels=about["labels"])
        if found.sha256 != about.get("sha256"):
            raise NirvanaError(
                f"The tokens in {path} are not those that were saved: their sha256 is "
                f"{found.sha256}, expected {about.get('sha256')}. Draw it again."
            )
        return found


def draw_calibration(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    config: CalibrationConfig,
    draw: int,
) -> Calibration:
    """Draw batches for the task of a model's head; `seed` and `draw` decide which.

    A causal model gets chunks of exactly `sequence_length` tokens; others get one document a row.
    The model is left as it was; it is run only where its predictions are the labels.

    Raises:
        NirvanaError: there is too little text, the model takes no text, has no head for a known
            task or too few positions, or the tokenizer lacks a token that the task needs.
    """
    refuse_textless(model)
    task = find_task(model)
    check_length(model, config.sequence_length, "calibration.sequence_length")
    luck = random.Random(f"{config.seed}/{draw}")
    if task.name == "causal-lm":
        chunks = cut_chunks(documents, tokenizer, config, luck)
        return Calibration(batches=_batch_chunks(chunks, config.batch_size), labels="text")
    groups = group_rows(documents, tokenizer, config, luck, writes=task.writes)
    generator = torch.Generator().manual_seed(luck.getrandbits(63))
    batches, origin = label_groups(
        model, tokenizer, groups, task.name, generator, config.label_column
    )
    return Calibration(batches=batches, labels=origin)


def select_draw(measures: Sequence[float]) -> int:
    """Return which draw has the least of its `measures`, the first of those that have.

    NIRVANA (arXiv 2509.14230) measures the KL divergence of the model that each draw prunes.

    Raises:
        NirvanaError: there is no draw, or a measure is not a number.
    """
    if not measures or any(math.isnan(value) for value in measures):
        raise NirvanaError(
            f"Expected a number for each of one or more calibration draws, got {measures}."
        )
    return measures.index(min(measures))


def refuse_textless(model: PreTrainedModel) -> None:
    """Raise NirvanaError for a model that takes no text; it may be on the meta device."""
    if model.main_input_name != "input_ids":
        raise NirvanaError(
            f"Calibration shows a model text; {type(model).__name__} takes "
            f"{model.main_input_name}. Cut it by a plan of your own: `nirvana prune MODEL "
            "--plan FILE`."
        )


def _batch_chunks(chunks: list[list[int]], batch_size: int) -> tuple[Batch, ...]:
    batches = []
    for start in range(0, len(chunks), batch_size):
        ids = torch.tensor(chunks[start : start + batch_size])
        ones = torch.ones_like(ids)
        batches.append({"input_ids": ids, "attention_mask": ones, "labels": ids.clone()})
    return tuple(batches)


def _ungroup(tensors: dict[str, torch.Tensor]) -> tuple[Batch, ...]:
    batches: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        if not (number.isdecimal() and number.isascii() and len(number) < 10 and name):
            raise NirvanaError(
                f"A calibration names its tensors like 0.input_ids, found {key!r}. Draw it again."
            )
        batches.setdefault(int(number), {})[name] = tensor
    for index, batch in batches.items():
        if "input_ids" not in batch:
            raise NirvanaError(
                f"Batch {index} of the calibration has no input_ids, only {sorted(batch)}. Draw it "
                "again."
            )
    return tuple(batches[number] for number in sorted(batches))
