"""Brings a graph into a form."""

from __future__ import annotations

import onnx_ir as ir

from exporters.export_config import FORMS, Form
from exporters.forms.known_forms import list_passes
from exporters.passes.graph_pass import PassOutcome
from pruning.errors import NirvanaError


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
