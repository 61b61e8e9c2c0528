"""Every tutorial is run as it stands, on tiny models; the README's tasks are taken from them."""

import csv
import json
import random
import re
import runpy
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from nirvana_deploy.cli import main
from nirvana_deploy.serving.triton.tritonserver import find_free_ports
from tests.nirvana_deploy.serving.tiny_decoder import save_tokenizer
from tests.pruning.tiny_models import make_tiny
from tests.pruning.training.tiny_tasks import WORDS, draw_row, make_tokenizer

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CALIBRATION = (
    ("num_sequences", "8"),
    ("sequence_length", "16"),
    ("num_draws", "1"),
)
_QUICK = "--min_seconds 0.05 --warmup_seconds 0.05 --min_samples 8 --length 16"
# Tiny models have few positions, and a measurement that lasts seconds shows nothing more.
SHORT = {
    "score": " ".join(f"--calibration.{name} {value}" for name, value in _CALIBRATION)
    + " --allocation.num_levels 3",
    "prune": "--constraints.neuron_multiple 8 --sequence_length 16",
    "deploy": " ".join(
        f"--prune.scoring.calibration.{name} {value}" for name, value in _CALIBRATION
    )
    + " --prune.scoring.allocation.num_levels 3 --prune.constraints.neuron_multiple 8"
    " --prune.sequence_length 16 --data.max_length 16"
    " --build.length.min 1 --build.length.opt 8 --build.length.max 16"
    + _QUICK.replace("--", " --profile."),
    "profile": _QUICK,
    "build": "--length.min 1 --length.opt 8 --length.max 16",
}


def read_blocks(page: Path) -> list[tuple[str, str]]:
    """Return language and text of every fenced block."""
    return _BLOCK.findall(page.read_text())


def split_commands(block: str) -> list[str]:
    """Return the commands of a block; a line that ends in a backslash goes on."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def read_commands(page: Path) -> list[str]:
    """Return the commands of the shell blocks of a page."""
    blocks = (block for language, block in read_blocks(page) if language == "bash")
    return [command for block in blocks for command in split_commands(block)]


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tutorials say that a reader has: two checkpoints, their data, and an ONNX file."""
    folder = tmp_path_factory.mktemp("materials")
    names = dict(enumerate(("games", "mail", "math")))
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    # As many positions and tokens as the scripts take for granted.
    sizes = {"max_position_embeddings": 160, "vocab_size": 1000, "num_labels": 3}
    classifier = make_tiny("bert", **sizes, **labels)
    classifier.save_pretrained(folder / "my-checkpoint")
    make_tokenizer(folder / "my-checkpoint").save_pretrained(folder / "my-checkpoint")
    # GenAI reads byte-level tokenizers, which have more tokens than other tiny models.
    decoder = make_tiny("llama", vocab_size=320, num_hidden_layers=2, eos_token_id=2)
    decoder.save_pretrained(folder / "my-decoder")
    save_tokenizer(folder / "my-decoder")
    draw = random.Random(0)
    with (folder / "reviews.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, ("text", "label"))
        rows.writeheader()
        rows.writerows(draw_row("classification", draw) for _ in range(200))
    lines = [" ".join(draw.choices(WORDS, k=12)) for _ in range(200)]
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["export", "my-checkpoint", "--out", "dense"]) == 0
    (folder / "dense" / "model.onnx").rename(folder / "dense.onnx")
    return folder


@pytest.fixture
def desk(materials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with these materials in it."""
    for path in materials.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.tensorrt
@pytest.mark.triton
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_tutorial_works(page: Path, desk: Path) -> None:
    servers: list[Server] = []
    try:
        for language, block in read_blocks(page):
            run_block(desk, language, block, servers)
    finally:
        for server in servers:
            server.stop()


def run_block(desk: Path, language: str, block: str, servers: list["Server"]) -> None:
    """Write a recipe, run Python, or run commands one by one."""
    if language == "yaml":
        (desk / block.splitlines()[0].removeprefix("# ")).write_text(block)
    elif language == "python":
        exec(block, {})
    else:
        assert language == "bash"
        for command in split_commands(block):
            words = shlex.split(command)
            if words[0] == "curl":
                assert servers[-1].ask(command)["outputs"]
            elif words[1] == "serve":
                servers.append(Server(command))
            else:
                assert main([*words[1:], *SHORT.get(words[1], "").split()]) == 0, command


class Server:
    """`nirvana serve` on free ports in place of the usual ones."""

    def __init__(self, command: str) -> None:
        self.http, *others = find_free_ports(3)
        ports = ("--http_port", self.http, "--grpc_port", others[0], "--metrics_port", others[1])
        words = [sys.executable, "-m", "nirvana_deploy", *command.split()[1:], *map(str, ports)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert any(line.startswith("Ready: ") for line in self._process.stdout)

    def ask(self, command: str) -> dict:
        """Send what a call of curl would send."""
        words = shlex.split(command)
        (url,) = (word for word in words if word.startswith("http://localhost:8000/"))
        request = urllib.request.Request(url.replace(":8000/", f":{self.http}/"))
        request.data = words[words.index("-d") + 1].encode()
        request.add_header(*words[words.index("-H") + 1].split(": "))
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(timeout=120) == 0


def test_the_tasks_of_the_readme_are_in_the_tutorials() -> None:
    known = {command for page in TUTORIALS for command in read_commands(page)}
    tasks = [c for c in read_commands(ROOT / "README.md") if c.startswith("nirvana")]
    assert len(tasks) >= 13
    assert [command for command in tasks if command not in known] == []
    (recipe,) = (block for kind, block in read_blocks(ROOT / "README.md") if kind == "yaml")
    assert recipe in (ROOT / "docs" / "tutorials" / "classifier.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_the_example_works(script: Path, desk: Path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip() or list((desk / "runs").iterdir())
