"""Which passes make which form, in their order."""

from __future__ import annotations

from exporters.export_config import Form
from exporters.passes.clean_graph import CleanGraph
from exporters.passes.fold_weight_transposes import FoldWeightTransposes
from exporters.passes.fuse_bias_gelu import FuseBiasGelu
from exporters.passes.fuse_group_query_attention import FuseGroupQueryAttention
from exporters.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from exporters.passes.fuse_rms_normalization import FuseSkipRmsNormalization
from exporters.passes.fuse_rotary_embedding import FuseRotaryEmbedding
from exporters.passes.fuse_skip_layer_normalization import FuseSkipLayerNormalization
from exporters.passes.graph_pass import GraphPass
from exporters.passes.keep_norms_apart import KeepNormsApart
from exporters.passes.merge_projections import MergeProjections

# Weights first, so that what reads them finds constants; rotations before the attentions that take
# them with merged heads; GroupQueryAttention, which holds the cache, before MultiHeadAttention.
_ATTENTION: tuple[type[GraphPass], ...] = (
    CleanGraph,
    FoldWeightTransposes,
    FuseRotaryEmbedding,
    FuseGroupQueryAttention,
    FuseMultiHeadAttention,
    MergeProjections,
)
_FORMS: dict[Form, tuple[type[GraphPass], ...]] = {
    "portable": (CleanGraph,),
    "ort-cpu": (*_ATTENTION, FuseBiasGelu, FuseSkipRmsNormalization, KeepNormsApart, CleanGraph),
    "ort-cuda": (
        *_ATTENTION,
        FuseBiasGelu,
        FuseSkipRmsNormalization,
        FuseSkipLayerNormalization,
        CleanGraph,
    ),
    "tensorrt": (CleanGraph,),
}


def list_passes(form: Form) -> tuple[GraphPass, ...]:
    """Return new passes for a form."""
    return tuple(kind() for kind in _FORMS[form])
