"""Opens an engine folder for a comparison. It runs on a GPU only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exporters.compare.artefact import MODEL, Array, Artefact, TokenFacts
from exporters.engines.engine_runner import EngineRunner
from exporters.io_names import is_past
from exporters.trace.graph_part import PAST, PRESENT, TOTAL, GraphTensor
from pruning.errors import NirvanaError


class EngineGraph:
    """The one graph of an engine."""

    def __init__(self, runner: EngineRunner) -> None:
        self._runner = runner

    @property
    def inputs(self) -> tuple[GraphTensor, ...]:
        """List what it takes. An engine keeps no names of free dimensions: they have the usual."""
        return tuple(
            GraphTensor(
                name=name,
                dtype=self._runner.dtype(name),
                shape=tuple(
                    dim if size == -1 else size
                    for size, dim in zip(
                        self._runner.shape(name), self._name_dims(name), strict=False
                    )
                ),
            )
            for name in self._runner.input_names
        )

    def _name_dims(self, name: str) -> tuple[str, str, str, str]:
        if is_past(name):
            return "batch", "heads", PAST, "width"
        has_cache = any(is_past(other) for other in self._runner.input_names)
        length = TOTAL if has_cache and name == "attention_mask" else PRESENT
        return "batch", length, "", ""

    @property
    def output_names(self) -> tuple[str, ...]:
        """List what it gives."""
        return self._runner.output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; floats as float32."""
        return self._runner.run(inputs)

    def run_blocks(self, inputs: Mapping[str, Array]) -> dict[int, Array]:
        """Raise NirvanaError: an engine's layers are fused, and give nothing."""
        raise NirvanaError(
            "an engine gives its outputs only. Compare the ONNX file that it was built from with "
            "the checkpoint."
        )


def open_engine(engine_dir: Path) -> Artefact:
    """Open the engine of a folder; the corners of its optimization profile are its cases.

    Raises:
        NirvanaError: its manifest is missing, it is not what the manifest says, or there is no GPU.
    """
    runner = EngineRunner(engine_dir)
    result = runner.manifest.result
    shapes = next(iter(result.optimisation_profile.values()))
    return Artefact(
        name=str(engine_dir),
        precision="fp16" if result.precision_asked == "fp16" else "fp32",
        graphs={MODEL: EngineGraph(runner)},
        facts=TokenFacts(),
        corners={corner: (shape[0], shape[1]) for corner, shape in shapes.items()},
    )
