"""What gates need where a training runs in several processes: the same gates in each."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import distributed
from transformers import TrainingArguments

from pruning.errors import NirvanaError
from pruning.gates.gate_registry import ATTRIBUTE, GateRegistry


def keep_gates_whole() -> None:
    """Tell accelerate, in place, to leave the gates out of what FSDP shards.

    A mask is made of all gates of a sub-block, whichever process holds the weights. They are few.
    """
    plugin = _find_fsdp()
    if plugin is not None:
        plugin.ignored_modules = rf"(?:.*\.)?{ATTRIBUTE}"


def average_gradients(registry: GateRegistry) -> None:
    """Give each process the mean of all processes' gradients of the gates, in place.

    DDP has averaged them already, and nothing changes. FSDP averages what it shards, which the
    gates are not.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    gates = list(registry.parameters())
    grads = [torch.zeros_like(gate) if gate.grad is None else gate.grad for gate in gates]
    joined = torch.cat([grad.flatten() for grad in grads])
    distributed.all_reduce(joined)
    joined /= distributed.get_world_size()
    for gate, grad in zip(gates, joined.split([gate.numel() for gate in gates]), strict=True):
        gate.grad = grad.view_as(gate)


def refuse_what_gates_cannot(args: TrainingArguments) -> None:
    """Raise NirvanaError for a kind of training in which gates would get no true gradients."""
    if args.n_gpu > 1:
        raise NirvanaError(
            f"One process drives {args.n_gpu} GPUs here (DataParallel), whose copies of the model "
            "would not share their gates. Start it by `accelerate launch`, or let it see one GPU."
        )
    if _distributed_type() == DistributedType.DEEPSPEED:
        raise NirvanaError(
            "Gates cannot learn under DeepSpeed, which keeps gradients to itself until after its "
            "own step. Train them under DDP or FSDP (`accelerate launch`); what is repacked can "
            "be trained on under DeepSpeed."
        )
    if args.fp16 and not args.max_grad_norm:
        raise NirvanaError(
            "Under fp16 gradients are scaled until they are clipped: set max_grad_norm above 0, "
            "or train in bf16."
        )


def _distributed_type() -> DistributedType | None:
    # A Trainer makes this state; reading it where there is none would make it.
    return AcceleratorState().distributed_type if AcceleratorState._shared_state else None


def _find_fsdp() -> Any:
    if _distributed_type() != DistributedType.FSDP:
        return None
    return AcceleratorState().fsdp_plugin
