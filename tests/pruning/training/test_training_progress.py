from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from pruning.training.training_progress import TrainingProgress, describe_last


def test_a_log_gets_a_line_every_tenth(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state, control = TrainerState(max_steps=25), TrainerControl()
    state.log_history = [
        {"loss": 0.5, "kept_fraction": 0.75, "target_kept_fraction": 0.7},
        {"x": 1},
    ]
    arguments, progress = TrainingArguments(output_dir=str(tmp_path)), TrainingProgress("prune")
    progress.on_train_begin(arguments, state, control)
    for step in range(1, 26):
        state.global_step = step
        progress.on_step_end(arguments, state, control)
    progress.on_train_end(arguments, state, control)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "prune: step 25 of 25, loss 0.500, kept 75.0% (target 70.0%)"


def test_before_the_first_log_there_is_nothing_to_say() -> None:
    assert describe_last(TrainerState()) == ""


def test_a_terminal_gets_a_bar(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    state, control = TrainerState(max_steps=3), TrainerControl()
    arguments, progress = TrainingArguments(output_dir=str(tmp_path)), TrainingProgress("baseline")
    progress.on_train_begin(arguments, state, control)
    state.global_step = 3
    progress.on_step_end(arguments, state, control)
    progress.on_train_end(arguments, state, control)
    assert "3/3" in capsys.readouterr().err
