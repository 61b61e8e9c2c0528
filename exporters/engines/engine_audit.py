"""Reads out of a build log what an engine really does: fused attentions, types, kernels a block.

A plan file can be inspected only where it can be loaded: on the GPU that it was built for. The
builder prints its table of layers anywhere, at profiling verbosity DETAILED, to a VERBOSE logger.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from exporters.engines.layer_table import LayerRow, read_layer_table

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


def _name_unfused(fused: Iterable[LayerRow], attentions: Sequence[str]) -> list[str]:
    """Return the attentions that no fused kernel computes; none where a kernel does not tell."""
    known = set(attentions)
    for row in fused:
        if not known & set(row.onnx_layers):
            return []
        known -= set(row.onnx_layers)
    return [name for name in attentions if name in known]


def _count_kernels(rows: Iterable[LayerRow], blocks: Mapping[str, str]) -> dict[str, int]:
    """Count the kernels of each block, in the order of the blocks; the rest as `outside`."""
    counts = Counter(_block_of(row, blocks) for row in rows if row.is_kernel)
    names = [*dict.fromkeys(blocks.values()), "outside"]
    return {name: counts[name] for name in names if counts[name]} if blocks else {}


def _block_of(row: LayerRow, blocks: Mapping[str, str]) -> str:
    """Return the block that most of a layer's nodes are of: fusions reach over the edges."""
    found = Counter(blocks[name] for name in row.onnx_layers if name in blocks)
    return found.most_common(1)[0][0] if found else "outside"
