"""Code of the current folder does not run, whatever its files are called."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from nirvana_deploy.cli import main
from pruning.errors import NirvanaError
from pruning.own_code import import_own
from pruning.scoring.known_saliencies import find_saliency
from pruning.tasks.metrics import load_metric
from tests.pruning.tiny_models import make_tiny

ROOT = Path(__file__).parents[2]
# What torch, transformers and we look for, installed or not, as files and as folders.
FILES = (
    "json",
    "onnx",
    "tokenizers",
    "numpy",
    "csv",
    "flash_attn",
    "tensorrt",
    "torch",
    "yaml",
    "kernels",
    "typing_extensions",
    "rich",
    "cv2",
)
FOLDERS = ("triton", "pruning", "profiles", "exporters", "tests", "torchao", "apex", "datasets")
SPY = "import pathlib\nwith open(pathlib.Path(__file__).parents[{up}] / 'RAN', 'a') as file:\n"


@pytest.fixture
def spied(tmp_path: Path) -> Path:
    """Return a checkpoint's folder full of modules that leave a file `RAN` when they are run."""
    folder = tmp_path / "downloaded"
    make_tiny("bert").save_pretrained(folder)
    write = "    file.write(__name__ + ' ')\n"
    for name in FILES:
        (folder / f"{name}.py").write_text(SPY.format(up=0) + write)
    for name in FOLDERS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(SPY.format(up=1) + write)
    (folder / "onnxruntime_extensions").mkdir()  # a namespace package: a folder without code
    return folder


def run_cli(folder: Path, way: str, arguments: Sequence[str], **settings: str) -> tuple[int, str]:
    script = folder.parent / "bin" / "nirvana"
    script.parent.mkdir(exist_ok=True)
    script.write_text("import sys\nfrom nirvana_deploy.__main__ import main\nsys.exit(main())\n")
    start = [str(script)] if way == "script" else ["-m", "nirvana_deploy"]
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("way", ["script", "module"])
@pytest.mark.parametrize(
    "arguments",
    [("inspect", "."), ("doctor",), ("prune", ".", "--plan", "none.json", "--out", "../out")],
    ids=lambda arguments: arguments[0],
)
def test_no_verb_runs_a_file_of_the_current_folder(
    spied: Path, way: str, arguments: tuple[str, ...]
) -> None:
    code, output = run_cli(spied, way, arguments)
    assert not (spied / "RAN").exists(), (spied / "RAN").read_text()
    assert code == (1 if arguments[0] == "prune" else 0), output
    assert "unexpected" not in output


@pytest.mark.parametrize("way", ["script", "module"])
@pytest.mark.parametrize("entry", ["", "."])
def test_a_relative_entry_of_pythonpath_is_not_imported_from(
    spied: Path, way: str, entry: str
) -> None:
    (spied / "typing_extensions.py").unlink()  # Python's own start may look there, before ours
    code, output = run_cli(spied, way, ("inspect", "."), PYTHONPATH=f"{ROOT}{os.pathsep}{entry}")
    assert not (spied / "RAN").exists(), (spied / "RAN").read_text()
    assert code == 0, output


@pytest.mark.parametrize("named", [True, False], ids=["named", "relative"])
def test_a_folder_on_pythonpath_by_its_full_path_stays(tmp_path: Path, named: bool) -> None:
    (tmp_path / "flash_attn.py").write_text(SPY.format(up=0) + "    file.write(__name__)\n")
    make_tiny("bert").save_pretrained(tmp_path)
    path = os.pathsep.join([str(ROOT), ".", *([str(tmp_path)] if named else [])])
    code, output = run_cli(tmp_path, "script", ("inspect", "."), PYTHONPATH=path)
    assert code == 0, output
    assert (tmp_path / "RAN").exists() == named


def test_a_metric_of_the_current_folder_reaches_no_neighbor_through_pythonpath(
    tmp_path: Path,
) -> None:
    (tmp_path / "own_neighbor.py").write_text("X = 1\n")
    (tmp_path / "own_lonely.py").write_text("import own_neighbor\n")
    make_tiny("bert").save_pretrained(tmp_path / "model")
    command = ("score", "model", "--out", "out", "--saliency", "own_lonely:f")
    for path, told in (
        (f"{ROOT}{os.pathsep}.", "add the folder to PYTHONPATH by its full path"),
        (f"{ROOT}{os.pathsep}{tmp_path}", "has no attribute 'f'"),
    ):
        code, output = run_cli(tmp_path, "module", command, PYTHONPATH=path)
        assert code == 1 and told in output, output
        assert not (tmp_path / "out").exists()


def test_a_folder_that_is_called_triton_breaks_nothing(tmp_path: Path) -> None:
    make_tiny("bert").save_pretrained(tmp_path / "model")
    (tmp_path / "triton" / "model").mkdir(parents=True)  # as `nirvana package --out triton` makes
    graphs = [run_cli(tmp_path, "module", ["profile", "model", "model", "--max_pairs", "x"])]
    assert graphs[0][0] != 0
    assert "PreTrainedModel" not in graphs[0][1]
    code, output = run_cli(tmp_path, "module", ["inspect", "model", "--prove"])
    assert code == 0, output


def test_only_the_named_module_of_the_current_folder_is_imported(
    spied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spied / "own_scores_only.py").write_text(
        "for name in ('flash_attn', 'tensorrt', 'cv2', 'apex'):\n"
        "    try:\n        __import__(name)\n    except ImportError:\n        pass\n"
        "def f(predictions, labels):\n    return {'mine': 1.0}\n"
    )
    monkeypatch.chdir(spied)
    before = list(sys.path), list(sys.meta_path)
    assert load_metric("own_scores_only:f")([0], [0]) == {"mine": 1.0}
    assert not (spied / "RAN").exists()
    assert (sys.path, sys.meta_path) == before
    with pytest.raises(ImportError):
        __import__("apex")


def test_a_package_of_the_current_folder_imports_its_own_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_pack").mkdir()
    (tmp_path / "own_pack" / "sums.py").write_text("VALUE = 2.0\n")
    (tmp_path / "own_pack" / "metric.py").write_text(
        "from own_pack.sums import VALUE\n"
        "def f(predictions, labels):\n"
        "    from . import sums  # later, too\n"
        "    return {'mine': VALUE + sums.VALUE}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_metric("own_pack.metric:f")([0], [0]) == {"mine": 4.0}


def test_a_module_that_wants_its_neighbor_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_neighbor.py").write_text("X = 1\n")
    (tmp_path / "own_lonely.py").write_text("import own_neighbor\n")
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NirvanaError, match="'own_neighbor' is in the current folder, from which"):
        load_metric("own_lonely:f")
    with pytest.raises(NirvanaError, match=r"ZeroDivisionError: division by zero\. Expected"):
        find_saliency("own_broken:f")
    with pytest.raises(NirvanaError, match=r"No module named 'own_nowhere'\. Expected a name"):
        import_own("own_nowhere:f", "thing", "a name")


def test_child_processes_do_not_import_from_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def look() -> list:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "spied_child.py").write_text("")
        code = "import sys, importlib.util as u; sys.exit(u.find_spec('spied_child') is not None)"
        seen.append(subprocess.run([sys.executable, "-c", code], check=False).returncode)
        return []

    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr("nirvana_deploy.api.machines.doctor", look)
    main(["doctor", "--json"])
    assert seen == [0]
    assert "PYTHONSAFEPATH" not in os.environ


@pytest.mark.parametrize("first", ["import nirvana_deploy", "import {name}, nirvana_deploy"])
@pytest.mark.parametrize("place", ["profiles/__init__.py", "pruning.py", "exporters/__init__.py"])
def test_what_hides_one_of_our_packages_is_named_at_import(
    tmp_path: Path, place: str, first: str
) -> None:
    file = tmp_path / "project" / place
    file.parent.mkdir(parents=True)
    file.write_text("")
    own = file.parent if file.stem == "__init__" else file
    name = own.stem
    done = subprocess.run(
        # Without the finder of an editable install, which comes before all folders.
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[:0] = [{str(own.parent)!r}, {str(ROOT)!r}]\n"
            "sys.meta_path = [m for m in sys.meta_path if 'editable' not in str(m).lower()]\n"
            + first.format(name=name),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: nirvana-deploy needs its package")
    assert str(ROOT / name) in last and str(own) in last
