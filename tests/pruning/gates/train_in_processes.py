"""Run by `accelerate launch`: trains gates on a tiny model, and writes what each process has.

train_in_processes.py FOLDER NUM_PROCESSES
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed

from tests.pruning.gates.tiny_training import gate_logits, make_training


def main(folder: Path, num_processes: int) -> None:
    _, callback, trainer = make_training(
        folder,
        per_device_train_batch_size=8 // num_processes,
        max_steps=12,
        max_grad_norm=0.0,
        save_strategy="steps",
        save_steps=3,
        **({"ddp_backend": "gloo"} if num_processes > 1 else {}),
    )
    trainer.train()
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    masks = {f"mask.{n}": (gate > 0).float() for n, gate in gate_logits(callback).items()}
    density = torch.tensor(float(callback.registry.kept_density().detach()))
    history = [e["kept_fraction"] for e in trainer.state.log_history if "loss" in e]
    # What the gates were before they were decided, at the checkpoint in the middle, is on disk.
    save_file(
        {**masks, "density": density, "history": torch.tensor(history)},
        folder / f"rank{rank}of{num_processes}.safetensors",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
