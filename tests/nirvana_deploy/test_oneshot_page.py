"""The code on docs/oneshot.md is run."""

import re
import sys
from pathlib import Path

import pytest
import torch

from nirvana_deploy.config_reader import read_config
from pruning.allocation.allocation_config import GlobalThreshold, Uniform
from pruning.oneshot.oneshot_config import MeanShift, OneShotConfig
from pruning.scoring.score_model import load_dense, score_model
from tests.pruning.oneshot.tiny_runs import scoring, write_model, write_text

PAGE = (Path(__file__).parents[2] / "docs" / "oneshot.md").read_text()


def test_the_own_saliency_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(# my_saliency\.py\n.*?)```", PAGE, re.DOTALL)
    assert code is not None
    (tmp_path / "my_saliency.py").write_text(code[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_saliency", raising=False)
    source = write_model(tmp_path / "model")
    text = write_text(tmp_path / "text")
    config = scoring(text, saliency="my_saliency:OutputNorm", allocation=Uniform())
    run = score_model(source, config, tmp_path / "run")
    dense = load_dense(source, "auto")
    for sub_block, site in dense.task(run.calibration).sites.items():
        columns = site.output_weight().detach().square().sum(dim=0)
        expected = columns.view(site.num_units, -1).sum(dim=1)
        torch.testing.assert_close(run.scores[sub_block], expected)


def test_the_settings_on_the_page_are_real() -> None:
    config = read_config(OneShotConfig, {"repair": "mean_shift", "allocation": {"gamma": 3.0}})
    assert config.repair == MeanShift()
    assert config.allocation == GlobalThreshold(gamma=3.0)
