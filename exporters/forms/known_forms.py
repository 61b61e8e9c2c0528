"""Which passes make which form, in their order."""

from __future__ import annotations

from exporters.export_config import Form
from exporters.passes.clean_graph import CleanGraph
from exporters.passes.fold_weight_transposes import FoldWeightTransposes
from exporters.passes.fuse_group_query_attention import FuseGroupQueryAttention
from exporters.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from exporters.passes.fuse_rms_normalization import FuseSkipRmsNormalization
from exporters.passes.fuse_rotary_embedding import FuseRotaryEmbedding
from exporters.passes.merge_projections import MergeProjections
from exporters.passes.graph_pass import GraphPass

_FORMS: dict[Form, tuple[type[GraphPass], ...]] = {
    "portable": (CleanGraph,),
    "ort-cpu": (
        CleanGraph,
        FoldWeightTransposes,
        FuseRotaryEmbedding,
        FuseGroupQueryAttention,
        FuseMultiHeadAttention,
        MergeProjections,
        FuseSkipRmsNormalization,
        CleanGraph,
    ),
    "ort-cuda": (CleanGraph, FuseMultiHeadAttention, CleanGraph),
    "tensorrt": (CleanGraph,),
}


def list_passes(form: Form) -> tuple[GraphPass, ...]:
    """Return new passes for a form."""
    return tuple(kind() for kind in _FORMS[form])
