"""Which text a model is shown when it is pruned without training. No torch, no datasets here."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

from pruning.errors import NirvanaError, NirvanaWarning
from pruning.number_ranges import check_numbers
from pruning.tasks.data_config import EMBEDDED_DATASET, DataConfig

_SHORTEST = 8  # tokens; below it, a row is little more than special tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """Name the text to calibrate on, and how much of it is drawn.

        prune:
          scoring:
            calibration: {source: texts.txt, num_sequences: 128, sequence_length: 128}

    Attributes:
        source: Calibration text: 'debian-sections' (inside the package), a local csv, tsv, json,
            jsonl or parquet file, a txt file (per line: a document; with label_column: class, tab,
            document; with target_column: document, tab, target), a folder with train.* and
            validation.*, or a name that `datasets` can load. The tenth of a single file that
            fine-tuning validates on is left out. By default the recipe's training rows, otherwise
            debian-sections with a warning.
        subset: Configuration name of a `datasets` data set.
        split: Split to take documents from.
        text_column: Column with the text or with a list of its words; by default found by its usual
            names, such as `text`.
        target_column: Column with the text to generate (seq2seq). By default the first half of each
            document is the input and the rest the target.
        label_column: Column with the class (classification). By default that of the embedded data
            set; for other data the model's own predictions are the labels.
        num_sequences: Number of sequences per draw.
        sequence_length: Tokens per sequence; for models that are not causal, at most this many.
        batch_size: Largest number of sequences per batch.
        num_draws: Number of random draws, of which the best one is kept.
        seed: Random seed of the draws.
    """

    source: str = ""
    subset: str | None = None
    split: str = "train"
    text_column: str = ""
    target_column: str | None = None
    label_column: str | None = None
    num_sequences: int = 128
    sequence_length: int = 128
    batch_size: int = 8
    num_draws: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("num_sequences", "batch_size", "num_draws"):
            if getattr(self, name) < 1:
                raise NirvanaError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        if self.sequence_length < _SHORTEST:
            raise NirvanaError(
                f"sequence_length must be {_SHORTEST} or more, got {self.sequence_length}."
            )
        if self.target_column is not None and self.label_column is not None:
            raise NirvanaError(
                f"A document has a target or a class, got target_column {self.target_column!r} "
                f"and label_column {self.label_column!r}. Set one of them."
            )


def name_source(config: CalibrationConfig) -> CalibrationConfig:
    """Return the config with its source named; warn where nobody named one.

    What a model is calibrated on decides what is cut from it: the text of the demo says little of
    another model's classes.
    """
    if config.source:
        return config
    warnings.warn(
        f"Calibrating on {EMBEDDED_DATASET}, the demo's package descriptions, since no source was "
        "given. Set calibration.source to text like that which the model will see.",
        NirvanaWarning,
        stacklevel=2,
    )
    return replace(config, source=EMBEDDED_DATASET)


def calibrate_on(config: CalibrationConfig, data: DataConfig) -> CalibrationConfig:
    """Return the config with the training rows of `data` for a source, where none was given."""
    if config.source:
        return config
    texts = {"token-classification": data.tokens_column, "question-answering": data.context_column}
    return replace(
        config,
        source=data.dataset,
        subset=data.subset,
        split=data.train_split,
        text_column=config.text_column or texts.get(data.task or "", data.text_column),
    )
