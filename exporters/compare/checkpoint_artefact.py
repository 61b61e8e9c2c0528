"""A loaded model as what its ONNX files are held against."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel

from exporters.compare.artefact import Artefact
from exporters.compare.token_facts import make_facts
from exporters.compare.torch_graph import TorchGraph
from exporters.trace.graph_part import GraphPart


def describe_parts(name: str, model: PreTrainedModel, parts: Iterable[GraphPart]) -> Artefact:
    """Return the graph parts of a loaded model, in float32, as an artefact called `name`."""
    return Artefact(
        name=name,
        precision="fp32",
        graphs={part.name: TorchGraph(part) for part in parts},
        facts=make_facts(model.config.to_dict()),
        corners={},
    )
