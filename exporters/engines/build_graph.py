"""A graph that an engine is built from, with all that its build and its manifest need of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.engines.engine_config import EngineConfig
from exporters.engines.engine_graph import (
    hash_structure,
    list_external_data,
    load_graph,
    name_attentions,
    name_blocks,
    read_graph_precision,
)
from exporters.engines.engine_profiles import Profile, find_max_length, plan_profiles
from exporters.graphs.onnx_files import explain_malformed
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError

if TYPE_CHECKING:
    import onnx


# A protobuf message, in which the parser takes a converted graph, ends at 2 GiB.
MAX_GRAPH_BYTES = 2**31 - 1
_HALVES = ("fp16", "bf16")


def choose_precision(model: onnx.ModelProto, asked: str, onnx_path: Path) -> str:
    """Return the precision that an engine gets: the asked one, or for `graph` the graph's.

    Raises:
        NirvanaError: the graph has another one already, from which it is not converted.
    """
    found = read_graph_precision(model)
    if asked in ("graph", found):
        return found
    if found == "fp32" and asked in _HALVES:
        return asked
    raise NirvanaError(
        f"{onnx_path} is in {found}, and precision is {asked}. Build it with precision graph, as "
        "it is, or export the model in fp32."
    )


def convert_types(onnx_path: Path, model: onnx.ModelProto, precision: str) -> bytes | None:
    """Return the graph in fp16 or bf16; None where the file has its types already.

    Inputs and outputs keep their types, but for caches that are written in place: those must be
    inputs of the operator that writes them, with no cast between.
    """
    if precision not in _HALVES or read_graph_precision(model) == precision:
        return None
    import onnx_ir as ir

    from exporters.graphs.onnx_files import load_external
    from exporters.precision.half_precision import convert_graph

    load_external(onnx_path, model)
    graph = ir.from_proto(model)
    in_place = any(node.op_type == "TensorScatter" for node in model.graph.node)
    dtype = ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.BFLOAT16
    convert_graph(graph, dtype, half_caches=in_place)
    half = ir.to_proto(graph)
    size_bytes = half.ByteSize()
    if size_bytes > MAX_GRAPH_BYTES:
        raise NirvanaError(
            f"{onnx_path} has {size_bytes} bytes in {precision}; a graph that is converted here "
            f"ends at {MAX_GRAPH_BYTES}. Export it with precision {precision}, and build it with "
            "precision graph."
        )
    written: bytes | None = half.SerializeToString()
    return written


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildGraph:
    """A graph, and what was read from it before anything was converted.

    Attributes:
        model: without its external data.
        sha256: of the file and of its external data, by name.
        precision: that the engine gets.
        profiles: by name.
        structure_sha256: of the graph without its weights.
        attentions: the nodes that stand for one each.
        blocks: by node, the transformer block that it is of.
    """

    path: Path
    model: onnx.ModelProto
    sha256: dict[str, str]
    precision: str
    profiles: dict[str, Profile]
    structure_sha256: str
    attentions: tuple[str, ...]
    blocks: dict[str, str]

    @property
    def data_sha256(self) -> dict[str, str]:
        """The hashes of the external data alone."""
        return {name: sha for name, sha in self.sha256.items() if name != self.path.name}


def read_build_graph(path: Path, config: EngineConfig) -> BuildGraph:
    """Read the graph of an ONNX file for a build.

    Raises:
        NirvanaError: it is not a valid ONNX file, or cannot take the precision or a profile.
    """
    with explain_malformed(path):
        model = load_graph(path)
        return BuildGraph(
            path=path,
            model=model,
            sha256=hash_source(path, model),
            precision=choose_precision(model, config.precision, path),
            profiles=plan_profiles(model, config, max_length=find_max_length(path)),
            structure_sha256=hash_structure(model),
            attentions=name_attentions(model),
            blocks=name_blocks(model),
        )


def hash_source(path: Path, model: onnx.ModelProto) -> dict[str, str]:
    """Return the SHA-256 of the ONNX file and of its external data, by name."""
    names = (path.name, *list_external_data(model))
    return {name: hash_file(path.parent / name) for name in names}
