"""One process of several: a few steps of a tiny model with gates, sharded by plain torch.

shard_in_processes.py FILE {whole,fsdp1,fsdp2} RANK NUM_PROCESSES
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor, init_device_mesh
from transformers.models.bert.modeling_bert import BertLayer

from pruning.gates.gate_registry import GateRegistry
from pruning.gates.processes import average_gradients
from pruning.gates.prune_config import BudgetConstraint
from pruning.gates.pruning_scheduler import penalise
from pruning.plans.cost import MacCost
from tests.pruning.tiny_models import make_tiny

NUM_STEPS = 3


def main(file: str, way: str, rank: int, num_processes: int) -> None:
    meeting = f"file://{file}.meeting"  # no port that another test may have taken
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=num_processes)
    model = make_tiny("bert")  # in evaluation mode, which has no dropout
    registry = GateRegistry.attach(model, MacCost(16))
    draw = torch.Generator().manual_seed(2)
    for gate in registry.parameters():
        gate.data = torch.randn(gate.shape, generator=draw).abs() + 0.2
    registry.mlps[1].gate_N.logit.data[::2] *= -1  # a forward pass that some gates are shut in
    sharded: Any = _shard(model, registry, way)
    gates = {id(gate) for gate in registry.parameters()}
    weights = [p for p in sharded.parameters() if id(p) not in gates]
    steppers = [torch.optim.SGD(weights, lr=0.1), torch.optim.Adam(registry.parameters(), lr=0.05)]
    rows = torch.randint(3, 99, (NUM_STEPS, 8, 12), generator=draw)
    labels = torch.randint(0, 5, (NUM_STEPS, 8), generator=draw)
    mine = slice(rank * 8 // num_processes, (rank + 1) * 8 // num_processes)
    saved: dict[str, torch.Tensor] = {}
    for step in range(NUM_STEPS):
        sharded(input_ids=rows[step, mine], labels=labels[step, mine]).loss.backward()
        average_gradients(registry)
        for name, gate in registry.named_parameters():
            saved[f"{step}.{name}.grad"] = gate.grad.detach().clone()
        penalise(registry, BudgetConstraint(), 0.5).backward()
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
    saved |= {name: gate.detach().clone() for name, gate in registry.named_parameters()}
    held = torch.tensor(float(sum(_local(p).numel() for p in weights)))
    save_file({**saved, "held": held}, f"{file}.{rank}")
    distributed.destroy_process_group()


def _shard(model: Any, registry: GateRegistry, way: str) -> Any:
    """Shard all but the gates, as `keep_gates_whole` asks of accelerate."""
    if way == "fsdp1":
        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=ModuleWrapPolicy({BertLayer}),
            ignored_modules=[registry],
            use_orig_params=True,
            device_id=torch.device("cpu"),
        )
    if way == "fsdp2":
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        whole = set(registry.parameters())
        for block in model.bert.encoder.layer:
            fully_shard(block, mesh=mesh, ignored_params=whole)
        fully_shard(model, mesh=mesh, ignored_params=whole)
    return model


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
