"""Which passes make which form, in their order."""

from __future__ import annotations

from exporters.export_config import Form
from exporters.passes.additive_masks import AdditiveMasks
from exporters.passes.clean_graph import CleanGraph
from exporters.passes.fold_weight_transposes import FoldWeightTransposes
from exporters.passes.fuse_bias_gelu import FuseBiasGelu
from exporters.passes.fuse_group_query_attention import FuseGroupQueryAttention
from exporters.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from exporters.passes.fuse_rms_normalization import FuseSkipRmsNormalization
from exporters.passes.fuse_rotary_embedding import FuseRotaryEmbedding
from exporters.passes.fuse_skip_layer_normalization import FuseSkipLayerNormalization
from exporters.passes.graph_pass import GraphPass
from exporters.passes.join_biases import JoinBiases
from exporters.passes.keep_norms_apart import KeepNormsApart
from exporters.passes.merge_projections import MergeProjections
from exporters.passes.scatter_cache import ScatterCache
from exporters.passes.write_attention_operator import WriteAttentionOperator
from pruning.errors import NirvanaError

# Weights first, so that what reads them finds constants; rotations before the attentions that take
# them with merged heads; GroupQueryAttention, which holds the cache, before MultiHeadAttention.
_ATTENTION: tuple[type[GraphPass], ...] = (
    CleanGraph,
    AdditiveMasks,
    JoinBiases,
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
    "tensorrt": (CleanGraph, AdditiveMasks, JoinBiases, WriteAttentionOperator, CleanGraph),
}


def list_passes(form: Form, cache_length: int | None = None) -> tuple[GraphPass, ...]:
    """Return new passes for a form; with `cache_length`, caches become buffers of that length."""
    passes = tuple(kind() for kind in _FORMS[form])
    if cache_length is None:
        return passes
    if form != "tensorrt":
        raise NirvanaError(
            f"cache_length is for the form tensorrt: a graph of the form {form} takes caches of "
            "any length."
        )
    return (*passes[:-1], ScatterCache(cache_length), passes[-1])
