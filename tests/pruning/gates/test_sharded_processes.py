"""Gates beside weights that plain torch shards over two processes: FSDP and FSDP2 on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.pruning.gates.test_processes import ROOT

SCRIPT = str(Path(__file__).parent / "shard_in_processes.py")


def run_steps(folder: Path, way: str, num_processes: int) -> list[dict[str, torch.Tensor]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    file = str(folder / way)
    started = [
        subprocess.Popen(
            [sys.executable, SCRIPT, file, way, str(rank), str(num_processes)],
            cwd=ROOT,
            env=environment,
        )
        for rank in range(num_processes)
    ]
    try:
        assert [process.wait(timeout=300) for process in started] == [0] * num_processes
    finally:
        for process in started:
            process.kill()
    return [load_file(f"{file}.{rank}") for rank in range(num_processes)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, torch.Tensor]:
    return run_steps(tmp_path_factory.mktemp("whole"), "whole", 1)[0]


@pytest.mark.parametrize("way", ["fsdp1", "fsdp2"])
def test_gates_get_the_gradients_of_one_process(way: str, alone, tmp_path) -> None:
    first, second = run_steps(tmp_path, way, 2)
    assert first["held"] < alone["held"] > second["held"], "no weight is sharded"
    assert set(first) == set(second) == set(alone)
    tasks = [float(grad.abs().max()) for name, grad in alone.items() if name.endswith("grad")]
    assert max(tasks) > 1e-6, "the task says nothing of the gates"
    for name in set(alone) - {"held"}:
        assert torch.equal(first[name], second[name]), name
        # Up to the order of sums.
        torch.testing.assert_close(first[name], alone[name], rtol=1e-3, atol=1e-7)
