"""A real SIGKILL in the middle of real pruning, and the same command again."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pruning.checkpoints.checkpoint import load_pruned
from pruning.training.resumable_training import COMPLETE_FILE
from tests.pruning.tiny_text import write_tiny_data, write_tiny_model

SETTINGS = {
    "budget": 0.5,
    "num_epochs": 4,
    "batch_size": 8,
    "save_steps": 5,
    "sequence_length": 16,
    "warm_start_rows": 16,
    "gate_learning_rate": 0.3,
    "bf16": "false",
    "data.max_length": 16,
    "baseline.num_epochs": 2,
    "baseline.batch_size": 8,
    "baseline.bf16": "false",
}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("killed")
    model, data = write_tiny_model(folder / "model"), write_tiny_data(folder / "data")
    flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
    verb = [sys.executable, "-m", "nirvana_deploy", "prune", str(model)]
    return [*verb, "--data.dataset", str(data), *flags, "--out"]


def read_result(run: Path) -> dict:
    return json.loads((run / "prune" / "manifest.json").read_text())["result"]


@pytest.mark.slow
def test_the_same_command_goes_on_to_the_same_bits(command: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen([*command, str(tmp_path / "killed")])
    mark = tmp_path / "killed" / ".prune.partial" / "trainer" / "checkpoint-15" / COMPLETE_FILE
    while not mark.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "prune").exists()

    again = subprocess.run(
        [*command, str(tmp_path / "killed")], check=True, capture_output=True, text=True
    )
    assert "baseline: finished before, skipped" in again.stderr
    assert "prune: resumes" in again.stderr
    steps = [int(step) for step in re.findall(r"prune: step (\d+) of 48", again.stderr)]
    assert steps
    assert min(steps) > 15, "it started from the beginning"

    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    killed, whole = read_result(tmp_path / "killed"), read_result(tmp_path / "whole")
    for key in ("budget", "pruned", "layers", "curve", "validations", "undecided_fraction"):
        assert killed[key] == whole[key]
    states = [
        load_pruned(tmp_path / run / "prune" / "checkpoint").state_dict()
        for run in ("killed", "whole")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
