"""Gates that learn in two processes, which are really launched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pruning.errors import NirvanaError
from pruning.gates import processes
from tests.pruning.gates.tiny_training import make_training
from tests.pruning.gates.train_in_processes import main

ROOT = Path(__file__).parents[3]
# accelerate has no launcher of its own for several processes on a CPU without MPI: with --multi_gpu
# it starts torchrun, and the script says `use_cpu` and gloo.
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0"),
]


def launch(script: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*LAUNCH, str(Path(__file__).parent / script), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]


def test_two_processes_learn_the_same_gates_as_one(tmp_path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    launch("train_in_processes.py", str(tmp_path / "two"), "2")
    main(tmp_path / "one", 1)
    first, second = (load_file(tmp_path / "two" / f"rank{r}of2.safetensors") for r in (0, 1))
    alone = load_file(tmp_path / "one" / "rank0of1.safetensors")
    assert set(first) == set(second) == set(alone)
    assert all(torch.equal(first[name], second[name]) for name in first)
    # Gates that lie at the threshold may go either way: sums are in another order.
    masks = [name for name in alone if name.startswith("mask.")]
    same = torch.cat([(first[name] == alone[name]).float().flatten() for name in masks])
    assert float(same.mean()) > 0.98
    torch.testing.assert_close(first["history"], alone["history"], rtol=0.02, atol=0.02)
    # In the middle nothing is frozen: the gates themselves, up to the order of sums.
    middle = [tmp_path / folder / "trainer" / "checkpoint-3" for folder in ("one", "two")]
    one, two = (load_file(folder / "model.safetensors") for folder in middle)
    gates = [name for name in one if name.startswith("nirvana_gates.")]
    for name in gates:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-3)


def test_deepspeed_is_refused(tmp_path, monkeypatch) -> None:
    _, callback, trainer = make_training(tmp_path)
    monkeypatch.setattr(processes, "_distributed_type", lambda: processes.DistributedType.DEEPSPEED)
    with pytest.raises(NirvanaError, match=r"cannot learn under DeepSpeed.*DDP or FSDP"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)
