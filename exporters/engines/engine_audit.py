"""Reads out of a build log what an engine really does: fused attentions, and types by layer.

A plan file can be inspected only where it can be loaded: on the GPU that it was built for. The
builder prints its table of layers anywhere, at profiling verbosity DETAILED, to a VERBOSE logger.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

# One line of the table. Tactic, stream and metadata follow, and are not needed.
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: .*?, Outputs: (?P<outputs>.*?)(?:, TacticName:|$)",
    re.MULTILINE,
)
_DATATYPE = re.compile(r"Datatype: (\w+)")

# The kernel that holds a whole attention: both products, the scale, the mask and the softmax; gemv
# where there is one query, as in a decode step. The name must begin so: a torch module that is
# called `mha` puts its name into other layers.
_FUSED_ATTENTION = re.compile(r"^_gem[mv]_mha_v\d+")

# Widest first: a layer counts as the widest floating type that it writes.
_FLOATING = {"Float": "fp32", "BFloat16": "bf16", "Half": "fp16", "FP8": "fp8", "FP4": "fp4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAudit:
    """What a build log says of its engine.

    Attributes:
        num_layers: rows of the table; a row is a kernel or a copy.
        precision_found: how many layers write each floating type; layers that write integers,
            booleans or nothing count as `other`.
    """

    num_layers: int
    num_fused_attentions: int
    precision_found: dict[str, int]


def audit_build_log(log: str) -> EngineAudit | None:
    """Return what the layer table in `log` says, or None when there is no such table."""
    rows = list(_LAYER.finditer(log))
    if not rows:
        return None
    found = Counter(_written_precision(row["outputs"]) for row in rows)
    return EngineAudit(
        num_layers=len(rows),
        num_fused_attentions=sum(bool(_FUSED_ATTENTION.match(row["name"])) for row in rows),
        precision_found=dict(sorted(found.items())),
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
        warnings.append(
            f"{num_attention_layers - found} of {num_attention_layers} attentions are not fused: "
            "they run as separate kernels."
        )
    if found > num_attention_layers:
        warnings.append(
            f"The log shows {found} fused attentions, the model has {num_attention_layers}."
        )
    if not audit.precision_found.get(precision):
        warnings.append(f"No layer writes {precision}, which was asked for.")
    return tuple(warnings)


def _written_precision(outputs: str) -> str:
    written = set(_DATATYPE.findall(outputs))
    return next((name for datatype, name in _FLOATING.items() if datatype in written), "other")
