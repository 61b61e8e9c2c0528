"""Reads the table of an engine's layers: what a builder logs, or an EngineInspector's JSON.

TensorRT 10 and 11 and TensorRT-RTX print one row a layer at profiling verbosity DETAILED. They
differ in the words for a tensor's type: `Format/Datatype: Half` or `Row major linear FP16` in
TensorRT 10, `Datatype: Half` since.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pruning.errors import NirvanaError
from pruning.strict_json import parse_json

# A row of the log; trtexec puts a time and a severity before the first. What follows the outputs
# depends on the layer.
_ROW = re.compile(
    r"^(?:\[[^\]]*\] )*Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: (?P<inputs>.*?)"
    r"(?:, Constants: .*?)?, Outputs: (?P<outputs>.*?)"
    r"(?:, (?:TacticName|TacticValue|ParameterType|Origin|StreamId|Metadata):(?P<rest>.*))?$",
    re.MULTILINE,
)
_DATATYPE = re.compile(r"Datatype: ([^,}]*)")
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_PROFILE = re.compile(r"\[profile (\d+)\]")
# Rows of one compiled subgraph; only some of them name their profile.
_SUBGRAPH = re.compile(r"_myl(\d+)_\d+$")

# Widest first: a layer counts as the widest that it writes.
PRECISIONS = {
    "fp32": re.compile(r"\b(?:Float|FP32)\b", re.IGNORECASE),
    "bf16": re.compile(r"\b(?:BFloat16|BF16)\b", re.IGNORECASE),
    "fp16": re.compile(r"\b(?:Half|FP16)\b", re.IGNORECASE),
    "fp8": re.compile(r"\bFP8", re.IGNORECASE),
    "int8": re.compile(r"\bInt8\b", re.IGNORECASE),
    "fp4": re.compile(r"\bFP4", re.IGNORECASE),
}
# Rows that start nothing on the GPU.
_NO_KERNEL = ("shape_call", "signal", "wait", "NoOp")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One layer of an engine: a kernel, or a copy.

    Attributes:
        kind: TensorRT's word, such as `gemm` or `kgen`.
        precision: the widest type that it writes; `other` for integers, booleans or nothing.
        onnx_layers: the names of the nodes that it computes.
        profile: the number of the optimization profile that it is for.
    """

    name: str
    kind: str
    precision: str
    onnx_layers: tuple[str, ...]
    profile: int = 0

    @property
    def is_kernel(self) -> bool:
        """Return whether it starts something on the GPU."""
        return self.kind not in _NO_KERNEL


def read_layer_table(text: str) -> tuple[LayerRow, ...]:
    """Return the rows of a build log, or of an inspector's JSON; none where there is no table."""
    rows = _read_json(text) if text.lstrip().startswith("{") else _read_log(text)
    numbered = _number_subgraphs(rows)
    return tuple(
        LayerRow(
            name=name,
            kind=kind,
            precision=_widest(datatypes),
            onnx_layers=tuple(_ONNX_LAYER.findall(metadata)),
            profile=_profile_of(name, text, numbered),
        )
        for name, kind, datatypes, metadata, text in rows
    )


# Name, kind, the types of the outputs, metadata, and all of its text.
_Raw = tuple[str, str, tuple[str, ...], str, str]


def _read_log(text: str) -> list[_Raw]:
    return [
        (
            row["name"],
            row["kind"],
            tuple(_DATATYPE.findall(row["outputs"])),
            (row["rest"] or "").partition("Metadata:")[2] or row["rest"] or "",
            f"{row['name']} {row['inputs']} {row['outputs']}",
        )
        for row in _ROW.finditer(text)
    ]


def _read_json(text: str) -> list[_Raw]:
    try:
        layers = parse_json(text, dict[str, Any], name="", remedy="", finite=False)["Layers"]
    except (NirvanaError, KeyError):
        return []
    if not isinstance(layers, list):
        return []
    # Without DETAILED, layers are names and nothing more.
    return [_read_layer(layer) for layer in layers if isinstance(layer, Mapping)]


def _read_layer(layer: Mapping[str, Any]) -> _Raw:
    listed = layer.get("Outputs", [])
    outputs = (
        [item for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []
    )
    datatypes = (tensor.get("Datatype", tensor.get("Format/Datatype", "")) for tensor in outputs)
    return (
        str(layer.get("Name", "")),
        str(layer.get("LayerType", "")),
        tuple(map(str, datatypes)),
        str(layer.get("Metadata", "")),
        json.dumps([layer.get("Name"), layer.get("Inputs"), outputs]),
    )


def _widest(datatypes: Iterable[str]) -> str:
    written = " ".join(datatypes)
    return next((name for name, word in PRECISIONS.items() if word.search(written)), "other")


def _number_subgraphs(rows: Iterable[_Raw]) -> dict[str, int]:
    """Return by subgraph the profile that one of its rows names."""
    numbered = {}
    for name, _, _, _, text in rows:
        subgraph, profile = _SUBGRAPH.search(name), _PROFILE.search(text)
        if subgraph and profile:
            numbered[subgraph[1]] = int(profile[1])
    return numbered


def _profile_of(name: str, text: str, numbered: Mapping[str, int]) -> int:
    if own := _PROFILE.search(text):
        return int(own[1])
    subgraph = _SUBGRAPH.search(name)
    return numbered.get(subgraph[1], 0) if subgraph else 0
