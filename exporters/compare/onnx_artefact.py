"""Opens an ONNX file, or a folder of them in optimum's layout, for a comparison."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.compare.artefact import GRAPH_NAMES, MODEL, Artefact, TokenFacts
from exporters.compare.onnx_graph import OnnxGraph
from exporters.export_config import GraphPrecision
from exporters.graphs.load_graph import find_id_limits, load_graph, read_precision
from exporters.graphs.onnx_files import explain_malformed
from exporters.io_names import is_past
from pruning.checkpoints.config_file import CONFIG_FILE, read_config_file
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject
from pruning.tasks.position_limit import count_config_positions
from pruning.token_ids import find_pad, list_steering

if TYPE_CHECKING:
    import onnx


def read_config_facts(folder: Path) -> TokenFacts | None:
    """Return what config.json in `folder` says; None where there is no such file."""
    if not (folder / CONFIG_FILE).is_file():
        return None
    return make_facts(read_config_file(folder))


def make_facts(config: JsonObject) -> TokenFacts:
    """Return what a config says, given as a plain mapping."""
    max_length = count_config_positions(config)
    inner = config.get("text_config")
    config = {**config, **inner} if isinstance(inner, dict) else config
    num_tokens = config.get("vocab_size")
    return TokenFacts(
        num_tokens=num_tokens,
        pad_token=find_pad(config.get("pad_token_id"), num_tokens),
        avoided=list_steering(config),
        num_types=config.get("type_vocab_size"),
        max_length=max_length,
    )


_HALVES = ("fp16", "bf16")
_ROUNDED = "{name} ran in float32 on the CPU, with what each operator gives rounded to {precision}"


def open_onnx(path: Path, *, name: str | None = None) -> Artefact:
    """Open a file, or all graphs of a folder; `name` is what it is called, by default its path.

    What the tokens can be is read from a config.json beside it, else from the graph.

    Raises:
        NirvanaError: there is not a valid ONNX file, or a folder has none of optimum's names.
    """
    name = name or str(path)
    files = _list_files(path)
    protos = {stem: load_graph(file) for stem, file in files.items()}
    folder = path if path.is_dir() else path.parent
    facts = read_config_facts(folder) or TokenFacts()
    with explain_malformed(path):
        facts = replace(
            facts,
            num_tokens=_count_values("input_ids", protos.values(), facts.num_tokens),
            num_types=_count_values("token_type_ids", protos.values(), facts.num_types),
        )
        facts = _shorten(facts, protos.values())
    facts = replace(facts, pad_token=find_pad(facts.pad_token, facts.num_tokens))
    precision = _coarsest(protos.values())
    return Artefact(
        name=name,
        precision=precision,
        graphs={stem: OnnxGraph(file) for stem, file in files.items()},
        facts=facts,
        corners={},
        notes=(_ROUNDED.format(name=name, precision=precision),) if precision in _HALVES else (),
    )


def _list_files(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        return {path.stem if path.stem in GRAPH_NAMES else MODEL: path}
    files = {name: path / f"{name}.onnx" for name in GRAPH_NAMES}
    there = {name: file for name, file in files.items() if file.is_file()}
    if not there:
        found = ", ".join(sorted(file.name for file in path.glob("*.onnx"))) or "no *.onnx"
        raise NirvanaError(
            f"Expected {', '.join(f'{n}.onnx' for n in GRAPH_NAMES)} in {path}, found {found}. "
            "Give the file itself."
        )
    return there


def _count_values(
    name: str, models: Iterable[onnx.ModelProto], in_config: int | None
) -> int | None:
    """Return how many values an input can have by the config and by the graphs' tables."""
    counts = [in_config, *(find_id_limits(model).get(name) for model in models)]
    return min((count for count in counts if count is not None), default=None)


def _shorten(facts: TokenFacts, models: Iterable[onnx.ModelProto]) -> TokenFacts:
    """Return the facts with no more tokens than the caches have room for, where that is fixed."""
    buffers = [
        value.type.tensor_type.shape.dim[2].dim_value
        for model in models
        for value in model.graph.input
        if is_past(value.name) and value.type.tensor_type.shape.dim[2].HasField("dim_value")
    ]
    lengths = [*buffers, *(() if facts.max_length is None else (facts.max_length,))]
    return replace(facts, max_length=min(lengths, default=None))


def _coarsest(models: Any) -> GraphPrecision:
    found = [read_precision(model) for model in models]
    order: tuple[GraphPrecision, ...] = ("int8-static", "int8", "bf16", "fp16")
    return next((precision for precision in order if precision in found), "fp32")
