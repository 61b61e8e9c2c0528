"""Packages served by the real vLLM of $NIRVANA_VLLM, and what the check says without one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirvana_deploy.serving.package import package_model
from nirvana_deploy.serving.package_config import HUB_STACKS, CheckpointSources, PackageConfig
from nirvana_deploy.serving.vllm.vllm_check import _measure
from pruning.errors import NirvanaError
from tests.nirvana_deploy.serving.vllm.tiny_checkpoints import EMPTY, MIXED, save

HOME = os.environ.get("NIRVANA_VLLM", "")
needs_vllm = pytest.mark.skipif(
    not HOME, reason="NIRVANA_VLLM is not set to an environment with vllm and nirvana-deploy"
)


def check(folder: Path, out: Path, form: Any, **settings: Any) -> Any:
    config = PackageConfig(to="vllm", form=form, model_name="small", **settings)
    return package_model(CheckpointSources(checkpoint=folder), out, config, check=True).server_check


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "layers", "settings"),
    [
        ("per-layer", MIXED, {}),
        ("per-layer", MIXED, {"remote_code": True}),
        ("per-layer", EMPTY, {}),
        ("deci", EMPTY, {}),
    ],
    ids=["plugin", "remote code", "empty parts", "block_configs"],
)
def test_vllm_computes_what_transformers_does(
    tmp_path: Path, form: str, layers: Any, settings: Any
) -> None:
    # vLLM's kernels want heads of 32 channels at least.
    sizes = {"hidden_size": 96, "head_dim": 32, "vocab_size": 300}
    save(tmp_path / "checkpoint", layers, **sizes)
    found = check(tmp_path / "checkpoint", tmp_path / "out", form, **settings)
    assert found["num_new_tokens"] == 24 and found["max_abs_difference"] < 1e-3


@needs_vllm
def test_vllm_reads_what_the_forms_write() -> None:
    """The lines of vLLM's source that the forms rest on."""
    (models,) = Path(HOME).glob("lib/python3*/site-packages/vllm/model_executor/models")
    registry = (models / "registry.py").read_text()
    known = HUB_STACKS["vllm"].architectures | {"DeciLMForCausalLM", "TransformersForCausalLM"}
    assert not [name for name in known if f'"{name}"' not in registry]
    blocks = (models / "nemotron_nas.py").read_text()
    for read in (
        "block_config.attention.no_op",
        "config.num_attention_heads // block_config.attention.n_heads_in_group",
        "block_config.ffn.no_op",
        'hasattr(block_config.ffn, "ffn_mult")',
        "block_config.ffn.intermediate_size",
    ):
        assert read in blocks
    backend = (models / "transformers" / "base.py").read_text()
    assert "self.model_config.model_arch_config[i]" in backend
    assert "AutoModel.from_config(**" in backend


def fake_environment(folder: Path, script: str) -> Path:
    """An environment whose Python runs `script` in the place of the one it is given."""
    (folder / "bin").mkdir(parents=True)
    (folder / "fake.py").write_text(script)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/fake.py" "$@"\n')
    python.chmod(0o755)
    return folder


ANSWERS = """
import json, sys
prompts = json.load(open(sys.argv[4]))
answers = [
    {"tokens": p + [1] * 8, "log_probabilities": [-4.0] * (len(p) + 7)} for p in prompts
]
json.dump({"version": "0.0", "answers": answers}, open(sys.argv[5], "w"))
"""


def test_missing_servers_and_wrong_answers_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "checkpoint", MIXED)
    monkeypatch.delenv("NIRVANA_VLLM", raising=False)
    with pytest.raises(NirvanaError, match="No vLLM to check with: NIRVANA_VLLM is not set"):
        check(tmp_path / "checkpoint", tmp_path / "1", "per-layer")
    monkeypatch.setenv("NIRVANA_VLLM", str(tmp_path))
    with pytest.raises(NirvanaError, match=r"which holds no bin/python.*pip install vllm"):
        check(tmp_path / "checkpoint", tmp_path / "2", "per-layer")
    broken = fake_environment(tmp_path / "broken", "raise ValueError('no such kernel')")
    monkeypatch.setenv("NIRVANA_VLLM", str(broken))
    with pytest.raises(NirvanaError, match=r"did not serve small: ValueError: no such kernel\.$"):
        check(tmp_path / "checkpoint", tmp_path / "3", "per-layer")
    empty = fake_environment(tmp_path / "empty", "import no_vllm_here")
    monkeypatch.setenv("NIRVANA_VLLM", str(empty))
    with pytest.raises(NirvanaError, match=r"No module named 'no_vllm_here'\. python -m venv"):
        check(tmp_path / "checkpoint", tmp_path / "5", "per-layer")
    monkeypatch.setenv("NIRVANA_VLLM", str(fake_environment(tmp_path / "wrong", ANSWERS)))
    with pytest.raises(NirvanaError, match=r"vLLM 0\.0 answers otherwise.*prompt of 3 tokens"):
        check(tmp_path / "checkpoint", tmp_path / "4", "per-layer")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "triton", "form": "padded"}, "form is a setting of packages for vllm"),
        ({"to": "tensorrt-llm", "form": "per-layer"}, "per-layer is vLLM's.*deci or padded"),
        ({"to": "vllm", "form": "padded", "remote_code": True}, "padded needs none"),
        ({"to": "tensorrt-llm", "form": "deci"}, "Ask for it with remote_code true"),
        ({"to": "vllm", "form": "small"}, "form must be one of uniform, padded, per-layer, deci"),
    ],
)
def test_forms_that_a_server_cannot_take_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(NirvanaError, match=message):
        PackageConfig(**settings)


@pytest.mark.parametrize(
    ("change", "is_equal"),
    [(0.0, True), (1e-4, True), (0.1, False), (float("nan"), False), (float("-inf"), False)],
)
def test_one_log_probability_is_compared_by_the_scale_of_all(change: float, is_equal: bool) -> None:
    logs = np.log(np.random.default_rng(0).dirichlet(np.ones(50), 6))
    tokens = [3, 9, *logs[1:].argmax(-1).tolist()]
    given = [float(row[token]) for row, token in zip(logs, tokens[1:], strict=True)]
    given[3] += change
    found = _measure(logs, {"tokens": tokens, "log_probabilities": given}, 2)
    assert found.agreement == 1.0
    assert (found.scaled <= 1e-3) is is_equal


def test_a_choice_that_is_not_the_likeliest_is_a_difference() -> None:
    logs = np.log(np.random.default_rng(0).dirichlet(np.ones(50), 6))
    logs[2, 7] = logs[2].max()  # a tie
    tokens = [3, 9, *logs[1:].argmax(-1).tolist()]
    tokens[3] = 7
    for last, agreement in ((tokens[-1], 1.0), (int(logs[-1].argmin()), 0.8)):
        tokens[-1] = last
        given = [float(row[token]) for row, token in zip(logs, tokens[1:], strict=True)]
        found = _measure(logs, {"tokens": tokens, "log_probabilities": given}, 2)
        assert found.agreement == pytest.approx(agreement) and found.max_abs == 0.0
