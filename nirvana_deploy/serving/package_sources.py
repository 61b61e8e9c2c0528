"""What a package is made of: files of earlier stages. No onnx and no tritonclient here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pruning.errors import NirvanaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a package is made of.

    Attributes:
        onnx: the model that requests get; for vLLM and TensorRT-LLM, a checkpoint's folder.
        dense: its dense model, served as version 1 beside it.
        engine: folder of an engine that was built from `onnx`, served in its place.
        checkpoint: folder with tokenizer and labels, for a model that takes text.
    """

    onnx: Path
    dense: Path | None = None
    engine: Path | None = None
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.dense is not None and self.engine is not None:
            raise NirvanaError(
                "A package holds an engine alone, or a dense and a pruned ONNX file: give --engine "
                "or --dense."
            )

    @property
    def graphs(self) -> tuple[Path, ...]:
        """The ONNX files, by version from 1."""
        return (self.onnx,) if self.dense is None else (self.dense, self.onnx)
