"""A model without its weights: what its config says, on the meta device, in no memory."""

from __future__ import annotations

import json
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from pruning.checkpoints import modeling_pruned
from pruning.checkpoints.checkpoint_files import is_pruned, load_plan
from pruning.checkpoints.config_file import list_architectures
from pruning.checkpoints.model_source import (
    find_own_class,
    load_stock_model,
    quiet_transformers,
    refuse_onnx,
)
from pruning.checkpoints.prunable_model import PLAN_FILE, refuse_quantised
from pruning.errors import NirvanaError
from pruning.wirings.known_wirings import refuse_unsupported
from pruning.wirings.structure import has_experts


def build_skeleton(source: str, *, own_code: bool = False) -> PreTrainedModel:
    """Build the model of a folder or hub id on the meta device; a pruned one carries its plan.

    With `own_code`, and where it is allowed to run, the architecture may be one of the folder's.

    Raises:
        NirvanaError: there is no model, it is quantized, or its architecture cannot be pruned or is
            not in transformers.
    """
    refuse_onnx(source)
    config = load_stock_model(AutoConfig, source)
    refuse_quantised(config)
    refuse_unsupported(config, experts=False)
    stock = find_architecture(config, source if own_code else None)
    built = modeling_pruned.pruned_class(stock) if hasattr(config, "nirvana") else stock
    try:
        with torch.device("meta"), quiet_transformers():
            model: PreTrainedModel = built(config)
    except Exception as error:
        raise NirvanaError(
            f"The config of {source} makes no {stock.__name__}: {str(error).splitlines()[0]} "
            "Expected the config of a model that transformers can build."
        ) from error
    refuse_unsupported(config, experts=has_experts(model))
    if is_pruned(source):
        plan = load_plan(source)
        model.nirvana_files = {PLAN_FILE: json.dumps(plan.to_json())}  # type: ignore[assignment]
    return model


def find_architecture(config: PretrainedConfig, source: str | None = None) -> Any:
    """Return the stock class that a config names, or the one without a head where it names none.

    With `source`, a class of its folder is taken where its code is allowed to run.

    Raises:
        NirvanaError: transformers has no such class.
    """
    name = (list_architectures(config) or [""])[0].removeprefix("Pruned")
    if hasattr(transformers, name):
        return getattr(transformers, name)
    if name:
        own = None if source is None else find_own_class(config.to_dict(), name, source)
        if own is not None:
            return own
        raise NirvanaError(
            f"transformers has no {name}. Models with code of their own are pruned in memory: "
            "load the model, then repack(model, plan)."
        )
    try:
        return AutoModel._model_mapping[type(config)]
    except KeyError as error:
        raise NirvanaError(
            f"The config names no architecture, and transformers has no model of type "
            f"{config.model_type!r}. Give it `architectures`."
        ) from error
