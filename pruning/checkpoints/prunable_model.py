"""A model as a source of pruning: its wiring, its dense dimensions, and what it keeps of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from pruning.errors import NirvanaError
from pruning.plans.dense_dims import DenseDims
from pruning.plans.plan import PruningPlan, hash_config
from pruning.strict_json import parse_json
from pruning.wirings.structure import find_stacks, read_dims
from pruning.wirings.wiring import Wiring

PLAN_FILE = "plan.json"
FILES_ATTRIBUTE = "nirvana_files"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunableModel:
    """What is known of a model before it is cut.

    Attributes:
        prefix: of the base model's tensors in the state dict: "bert." where there is a head.
        current: what it keeps of the dense model now: all, unless it was pruned before.
        is_plain: pruned before, but of the stock class with smaller numbers in its config.
        stock_class: transformers' class, also where the model is of a `Pruned` one.
    """

    wiring: Wiring
    prefix: str
    current: PruningPlan
    is_plain: bool
    config: PretrainedConfig
    stock_class: Any

    @property
    def dims(self) -> DenseDims:
        """The dimensions of the dense model."""
        return self.current.dims


def read_wired_model(
    model: PreTrainedModel, find_wiring: Callable[[PreTrainedModel], Wiring]
) -> PrunableModel:
    """Read and check a model, dense or pruned before.

    `find_wiring` is asked for the wiring of a model that does not bring its own. It is handed in,
    since finding one may take a proof, which reads models itself (see
    `pruning.cutting.wiring_inference.read_model`).

    Raises:
        NirvanaError: its type cannot be pruned, or its modules are not as its type's.
    """
    refuse_adapters(model)
    current = read_plan(model)
    described = getattr(model.config, "nirvana", None)
    if described is not None:
        wiring = Wiring.from_json(described.get("wiring") if isinstance(described, dict) else None)
        if current is None:
            raise NirvanaError(
                "The model was pruned before, but its plan is not with it: load it by load_pruned "
                "or from its whole folder."
            )
    else:
        wiring = find_wiring(model)
    present = tuple(stack for stack, _ in find_stacks(model, wiring))
    wiring = replace(wiring, stacks=present)
    if current is None:
        dims = read_dims(model, wiring)
        current = PruningPlan.dense(dims, hash_config(model.config.to_dict()))
    return PrunableModel(
        wiring=wiring,
        prefix=_find_prefix(model),
        current=current,
        is_plain=described is None and not is_whole(current),
        config=model.config,
        stock_class=find_stock_class(model),
    )


def is_whole(plan: PruningPlan) -> bool:
    """Return whether a plan keeps everything."""
    return plan.layers == PruningPlan.dense(plan.dims, "").layers


def read_plan(model: PreTrainedModel) -> PruningPlan | None:
    """Return the plan that a pruned model carries, None for a dense one."""
    text = getattr(model, FILES_ATTRIBUTE, {}).get(PLAN_FILE)
    if text is None:
        return None
    remedy = "Load the model again from its whole folder."
    return PruningPlan.from_json(
        parse_json(text, dict[str, object], name=f"The model's {PLAN_FILE}", remedy=remedy)
    )


def find_stock_class(model: PreTrainedModel) -> Any:
    """Return transformers' class of a model that may be of a `Pruned` one."""
    for candidate in type(model).__mro__:
        if candidate.__module__.split(".")[0] == "transformers":
            return candidate
    return type(model)


_QUANTISED = (
    "The model's weights are quantized: rows and columns of packed integers cannot be cut. Prune "
    "the floating-point model, then quantize the pruned one."
)


def refuse_quantised(config: PretrainedConfig) -> None:
    """Raise NirvanaError for the config of a quantized model."""
    if getattr(config, "quantization_config", None):
        raise NirvanaError(_QUANTISED)


def refuse_absent_weights(model: PreTrainedModel) -> None:
    """Raise NirvanaError for weights that are quantized, offloaded, or spread over devices."""
    refuse_quantised(model.config)
    packed = not all(_is_floating(parameter) for parameter in model.parameters())
    # torch's own quantized linear maps have a method in the place of the weight.
    packed |= any(callable(getattr(module, "weight", None)) for module in model.modules())
    if packed or getattr(model, "hf_quantizer", None):
        raise NirvanaError(_QUANTISED)
    devices = {str(p.device) for p in model.parameters()}
    if "meta" in devices:
        raise NirvanaError(
            "Some of the model's weights are offloaded (on the meta device). Load it without "
            "device_map, or prune its folder from disk to disk with apply_plan or `nirvana "
            "prune FOLDER --plan FILE`."
        )
    if len(devices) > 1:
        raise NirvanaError(
            f"The model is spread over {sorted(devices)}. Load it on one device, or prune its "
            "folder from disk to disk with apply_plan or `nirvana prune FOLDER --plan FILE`."
        )


def refuse_adapters(model: Any) -> None:
    """Raise NirvanaError for a model with adapters (LoRA and the like) that were not merged."""
    wrapped = any(".base_layer." in name for name, _ in model.named_parameters())
    if wrapped or not isinstance(model, PreTrainedModel):
        raise NirvanaError(
            "The model has adapters, which are neither pruned nor saved with it. "
            "Merge them first: model = model.merge_and_unload()."
        )


def _is_floating(parameter: torch.nn.Parameter) -> bool:
    return parameter.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _find_prefix(model: PreTrainedModel) -> str:
    name = next(name for name, module in model.named_modules() if module is model.base_model)
    return f"{name}." if name else ""
