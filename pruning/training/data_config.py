"""Which labelled text to fine-tune and validate on. No torch, no datasets here."""

from dataclasses import dataclass, field

from pruning.errors import NirvanaError

EMBEDDED_DATASET = "debian-sections"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Name a data set and its columns."""

    dataset: str = field(
        default=EMBEDDED_DATASET,
        metadata={
            "help": "'debian-sections' (inside the package), a local csv/json/jsonl/parquet file, "
            "a txt file (class, tab, text a line), a folder of them (train.*, validation.*), or a "
            "name that `datasets` can load"
        },
    )
    subset: str | None = field(
        default=None, metadata={"help": "configuration name of a `datasets` data set"}
    )
    train_split: str = field(default="train", metadata={"help": "split to fine-tune on"})
    validation_split: str = field(default="validation", metadata={"help": "split to validate on"})
    text_column: str = field(default="description", metadata={"help": "column with the text"})
    label_column: str = field(
        default="section", metadata={"help": "column with the class (name or integer)"}
    )
    max_length: int = field(default=64, metadata={"help": "longest input in tokens"})
    max_train_rows: int | None = field(
        default=None, metadata={"help": "use only the first N training rows"}
    )
    max_validation_rows: int | None = field(
        default=None, metadata={"help": "use only the first N validation rows"}
    )

    def __post_init__(self) -> None:
        for name in ("max_length", "max_train_rows", "max_validation_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise NirvanaError(f"{name} must be 1 or more, got {value}.")
