"""Which passes make which form, in their order."""

from __future__ import annotations

import onnx_ir as ir

from exporters.export_config import FORMS, Form
from exporters.passes.clean_graph import CleanGraph, FoldWeightTransposes
from exporters.passes.fuse_bias_gelu import FuseBiasGelu
from exporters.passes.fuse_group_query_attention import FuseGroupQueryAttention
from exporters.passes.fuse_multi_head_attention import FuseMultiHeadAttention
from exporters.passes.fuse_rms_normalization import FuseSkipRmsNormalization
from exporters.passes.fuse_rotary_embedding import FuseRotaryEmbedding
from exporters.passes.graph_pass import GraphPass, PassOutcome
from exporters.passes.join_biases import JoinBiases
from exporters.passes.merge_projections import MergeProjections
from exporters.passes.residual_norms import FuseSkipLayerNormalization, KeepNormsApart
from exporters.passes.scatter_cache import ScatterCache
from exporters.passes.write_attention_operator import AdditiveMasks, WriteAttentionOperator
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


def apply_form(
    model: ir.Model, form: Form, *, cache_length: int | None = None
) -> tuple[PassOutcome, ...]:
    """Rewrite `model` in place, pass by pass, and return what each did and what it left as it was.

    With `cache_length`, for TensorRT, a decoder's caches become buffers of that length, which the
    engine writes in place: their inputs and outputs change from what was traced.

    Raises NirvanaError for a form that is not known, or a graph that a pass cannot take.
    """
    if form not in FORMS:
        raise NirvanaError(f"form must be one of {', '.join(FORMS)}, got {form!r}.")
    outcomes = []
    for step in list_passes(form, cache_length):
        try:
            step(model)
        except ir.passes.InvariantError as error:
            if isinstance(error.__cause__, NirvanaError):
                raise error.__cause__ from None
            raise NirvanaError(
                f"The graph cannot take the form {form}: {step.name} says {error}"
            ) from error
        outcomes.append(step.outcome)
    return tuple(outcomes)
