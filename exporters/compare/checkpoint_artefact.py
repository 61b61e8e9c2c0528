"""A model in torch as what its ONNX files are compared with."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel

from exporters.compare.artefact import DECODER, ENCODER, Artefact, TokenFacts
from exporters.compare.torch_graph import TorchGraph
from exporters.export_config import ExportConfig
from exporters.trace.graph_part import GraphPart
from exporters.trace.list_parts import list_parts
from exporters.trace.load_source import load_source
from pruning.checkpoints.model_source import fetch_model
from pruning.token_ids import find_pad, list_steering


def open_checkpoint(source: str, graph_names: Iterable[str] = ()) -> Artefact:
    """Load a dense or pruned checkpoint in float32, in the graphs that the other side has.

    Raises:
        NirvanaError: it cannot be loaded, or has a head that is not exported.
    """
    names = set(graph_names)
    split = DECODER in names and ENCODER not in names
    model = load_source(fetch_model(source))
    config = ExportConfig(graphs="split" if split else "merged")
    return describe_parts(source, model, list_parts(model, config))


def describe_parts(name: str, model: PreTrainedModel, parts: Iterable[GraphPart]) -> Artefact:
    """Return the graph parts of a loaded model, in float32, as an artifact called `name`."""
    parts = tuple(parts)
    limits = {spec.limit for part in parts for spec in part.inputs if spec.name == "input_ids"}
    lengths = [part.max_length for part in parts if part.max_length is not None]
    num_tokens = min((limit for limit in limits if limit is not None), default=None)
    config = model.config.get_text_config()
    return Artefact(
        name=name,
        precision="fp32",
        graphs={part.name: TorchGraph(part) for part in parts},
        facts=TokenFacts(
            num_tokens=num_tokens,
            pad_token=find_pad(getattr(config, "pad_token_id", None), num_tokens),
            avoided=list_steering(config.to_dict()),
            num_types=getattr(config, "type_vocab_size", None),
            max_length=min(lengths, default=None),
        ),
        corners={},
    )
