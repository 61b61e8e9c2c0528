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
)
from exporters.engines.engine_profiles import Profile, find_max_length, plan_profiles
from exporters.engines.graph_types import choose_precision
from exporters.graphs.onnx_files import explain_malformed
from pruning.checkpoints.file_hash import hash_file

if TYPE_CHECKING:
    import onnx


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
