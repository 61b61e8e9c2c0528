"""Reads out of a build log what an engine really does: fused attentions, types, kernels a block.

A plan file can be inspected only where it can be loaded: on the GPU that it was built for. The
builder prints its table of layers anywhere, at profiling verbosity DETAILED, to a VERBOSE logger.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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
class EngineLayer:
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


def read_layer_table(text: str) -> tuple[EngineLayer, ...]:
    """Return the rows of a build log, or of an inspector's JSON; none where there is no table."""
    rows = _read_json(text) if text.lstrip().startswith("{") else _read_log(text)
    numbered = _number_subgraphs(rows)
    return tuple(
        EngineLayer(
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
        layers = parse_json(text, dict[str, object], name="", remedy="", finite=False)["Layers"]
    except (NirvanaError, KeyError):
        return []
    if not isinstance(layers, list):
        return []
    # Without DETAILED, layers are names and nothing more.
    return [_read_layer(layer) for layer in layers if isinstance(layer, Mapping)]


def _read_layer(layer: Mapping[str, object]) -> _Raw:
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


# The kernel that holds a whole attention: both products, the scale, the mask and the softmax; gemv
# where there is one query, as in a decode step. The name must begin so: a torch module that is
# called `mha` puts its name into other layers.
_FUSED_ATTENTION = re.compile(r"^_gem[mv]_mha_v\d+")

HEAL_ATTENTION = (
    "Kernels exist in fp16 and bf16, for head dims from 16 to 256 in multiples of 8, and for two "
    "heads or more: export with form tensorrt, and prune with avoid_one_head."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAudit:
    """What a build log says of its engine.

    Attributes:
        num_layers: rows of the table, those of all profiles; a row is a kernel or a copy.
        num_fused_attentions: in the profile that has the fewest.
        precision_found: how many layers write each type; those that write integers, booleans or
            nothing count as `other`.
        unfused_attentions: the nodes whose attention is not one kernel, with the profile where
            there are several; empty where the rows do not say which node they compute.
        kernels_by_block: of the first profile, by the transformer block that they are (most) of.
    """

    num_layers: int
    num_fused_attentions: int
    precision_found: dict[str, int]
    unfused_attentions: tuple[str, ...] = ()
    kernels_by_block: dict[str, int] = field(default_factory=dict)


def audit_build_log(
    log: str,
    *,
    attentions: Sequence[str] = (),
    blocks: Mapping[str, str] | None = None,
    profiles: Sequence[str] = ("default",),
) -> EngineAudit | None:
    """Return what the layer table in `log` says, or None when there is no such table.

    `attentions` are the nodes that stand for one, `blocks` the block that a node is of, `profiles`
    the names of the optimization profiles.
    """
    rows = read_layer_table(log)
    if not rows:
        return None
    fused = [row for row in rows if _FUSED_ATTENTION.match(row.name)]
    per_profile = [[row for row in fused if row.profile == i] for i in range(len(profiles))]
    return EngineAudit(
        num_layers=len(rows),
        num_fused_attentions=min(len(found) for found in per_profile),
        precision_found=dict(sorted(Counter(row.precision for row in rows).items())),
        unfused_attentions=tuple(
            f"{name} (profile {profile})" if len(profiles) > 1 else name
            for profile, found in zip(profiles, per_profile, strict=True)
            for name in _name_unfused(found, attentions)
        ),
        kernels_by_block=_count_kernels((row for row in rows if row.profile == 0), blocks or {}),
    )


def list_warnings(
    audit: EngineAudit | None, *, precision: str, num_attention_layers: int
) -> tuple[str, ...]:
    """Return what was asked of an engine and is not in it, one sentence each."""
    if audit is None:
        return ("The build log has no layer table: fusion and precision are not known.",)
    warnings = []
    found = audit.num_fused_attentions
    if precision == "fp32":
        warnings.append("fp32 attention is never fused; ask for fp16 where speed matters.")
    elif found < num_attention_layers:
        warnings.append(describe_unfused(audit, num_attention_layers))
    if found > num_attention_layers:
        warnings.append(
            f"The log shows {found} fused attentions, the model has {num_attention_layers}."
        )
    if not audit.precision_found.get(precision):
        warnings.append(f"No layer writes {precision}, which was asked for.")
    return tuple(warnings)


def describe_unfused(audit: EngineAudit, num_attention_layers: int) -> str:
    """Return how many attentions run as separate kernels, and which."""
    missing = num_attention_layers - audit.num_fused_attentions
    which = f" ({', '.join(audit.unfused_attentions)})" if audit.unfused_attentions else ""
    return (
        f"{missing} of {num_attention_layers} attentions are not fused{which}: they run as "
        "separate kernels."
    )


def _name_unfused(fused: Iterable[EngineLayer], attentions: Sequence[str]) -> list[str]:
    """Return the attentions that no fused kernel computes; none where a kernel does not tell."""
    known = set(attentions)
    for row in fused:
        if not known & set(row.onnx_layers):
            return []
        known -= set(row.onnx_layers)
    return [name for name in attentions if name in known]


def _count_kernels(rows: Iterable[EngineLayer], blocks: Mapping[str, str]) -> dict[str, int]:
    """Count the kernels of each block, in the order of the blocks; the rest as `outside`."""
    counts = Counter(_block_of(row, blocks) for row in rows if row.is_kernel)
    names = [*dict.fromkeys(blocks.values()), "outside"]
    return {name: counts[name] for name in names if counts[name]} if blocks else {}


def _block_of(row: EngineLayer, blocks: Mapping[str, str]) -> str:
    """Return the block that most of a layer's nodes are of: fusions reach over the edges."""
    found = Counter(blocks[name] for name in row.onnx_layers if name in blocks)
    return found.most_common(1)[0][0] if found else "outside"
