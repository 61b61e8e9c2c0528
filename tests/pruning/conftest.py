from pathlib import Path

import pytest

from pruning.tasks.data_config import DataConfig
from pruning.training.baseline_stage import run_baseline
from pruning.training.training_configs import BaselineConfig
from tests.pruning.tiny_text import write_tiny_data, write_tiny_model


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = write_tiny_data(tmp_path_factory.mktemp("data") / "tiny")
    return DataConfig(dataset=str(folder), max_length=16)


@pytest.fixture(scope="session")
def tiny_baseline(tiny_model_dir: Path, tiny_data: DataConfig, tmp_path_factory) -> Path:
    """A fine-tuned tiny baseline; its checkpoint is in `checkpoint`."""
    out_dir = tmp_path_factory.mktemp("baseline")
    config = BaselineConfig(num_epochs=6, learning_rate=2e-3, batch_size=8)
    run_baseline(str(tiny_model_dir), tiny_data, config, out_dir)
    return out_dir
