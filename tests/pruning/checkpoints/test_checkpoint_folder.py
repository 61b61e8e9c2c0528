import errno
import json
import os
import pkgutil
import signal
import subprocess
import sys
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from pruning.checkpoints.checkpoint import is_pruned, load_pruned, save_pruned
from pruning.cutting.repack import repack
from pruning.cutting.repack_checkpoint import repack_checkpoint
from pruning.errors import NirvanaError
from pruning.plans.plan import PruningPlan
from pruning.write_aside import write_new_folder
from tests.pruning.checkpoints.test_checkpoint import compute_logits
from tests.pruning.tiny_models import PLANS, TINY, make_tiny


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> tuple[Path, PruningPlan]:
    model = make_tiny("llama")
    plan = PLANS["uneven"](model)
    folder = tmp_path_factory.mktemp("llama") / "checkpoint"
    save_pruned(repack(model, plan), folder)
    return folder, plan


def test_the_folder_is_ordinary_and_holds_no_pickle(llama) -> None:
    folder, plan = llama
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("modeling_pruned.py", "plan.json", "manifest.json"),
    }
    assert is_pruned(folder)
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(listed) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert PruningPlan.load(folder / "plan.json") == plan
    code = (folder / "modeling_pruned.py").read_text()
    assert "from pruning" not in code and "import pruning" not in code
    base = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert base.layers[1].self_attn.q_proj.out_features == 8


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_a_pruned_checkpoint_loads_in_silence_and_passes_for_its_stock_class(
    name, tmp_path
) -> None:
    """In a process of its own: transformers warns once per process, and through its own handler."""
    model = make_tiny(name)
    save_pruned(repack(model, PLANS["uneven"](model)), tmp_path / "checkpoint")
    stock = type(model).__name__
    config = json.loads((tmp_path / "checkpoint/config.json").read_text())
    assert config["architectures"] == [f"Pruned{stock}"]
    assert "per_layer_config" not in config
    code = (
        "import sys, transformers\n"
        "transformers.utils.logging.disable_progress_bar()\n"
        f"auto = transformers.{TINY[name].task.__name__}\n"
        "model = auto.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(type(model).__name__)\n"
        "model.save_pretrained(sys.argv[2])\n"
        "print(auto.from_pretrained(sys.argv[2], trust_remote_code=True).config.architectures)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "checkpoint", "again"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [stock, f"['Pruned{stock}']"]


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    """Both ways to write a checkpoint, of the same model and plan."""
    model = make_tiny("llama")
    plan = PLANS["block"](model)
    source = tmp_path_factory.mktemp("source") / "llama"
    model.save_pretrained(source, max_shard_size="20KB")
    return {
        "save_pruned": partial(save_pruned, repack(model, plan), max_shard_size="20KB"),
        "repack_checkpoint": partial(repack_checkpoint, source, plan),
    }


@pytest.fixture(params=["save_pruned", "repack_checkpoint"])
def writer(request, writers):
    return request.param, writers[request.param]


# What a writer calls on its way, and the how manieth call ends it: instead of it, or after it.
POINTS = {
    "config": ("transformers.PreTrainedConfig.save_pretrained", 1, "instead"),
    "weights": ("", 3, "instead"),
    "plan": ("pruning.plans.plan.PruningPlan.save", 1, "after"),
    "manifest": ("pruning.checkpoints.modeling_pruned.write_manifest", 1, "instead"),
    "before the moves": ("pathlib.Path.rename", 1, "instead"),
    "between the moves": ("pathlib.Path.rename", 2, "after"),
}
WEIGHTS = {
    "save_pruned": "transformers.modeling_utils.safe_save_file",  # a shard
    "repack_checkpoint": "pruning.cutting.tensor_cutter.Fate.apply",  # a tensor
}


def end_at(monkeypatch, writer: str, point: str, end) -> None:
    """Make `writer` end at a point, where it calls `end`."""
    target, call, when = POINTS[point]
    target = target or WEIGHTS[writer]
    original, calls = pkgutil.resolve_name(target), []

    def ending(*args, **kwargs):
        calls.append(args)
        if len(calls) == call and when == "instead":
            end()
        result = original(*args, **kwargs)
        if len(calls) == call:
            end()
        return result

    monkeypatch.setattr(target, ending)


def interrupt():
    raise KeyboardInterrupt


def fill():
    raise OSError(errno.ENOSPC, "No space left on device")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def old(tmp_path: Path) -> torch.Tensor:
    """Save a checkpoint of another model, and return what it computes."""
    model = make_tiny("bert")
    smaller = repack(model, PLANS["uneven"](model))
    save_pruned(smaller, tmp_path / "checkpoint")
    return compute_logits(smaller)


@pytest.mark.parametrize("point", POINTS)
def test_an_interruption_leaves_the_old_checkpoint(point, writer, old, tmp_path, monkeypatch):
    monkeypatch.setattr("pruning.write_aside._exchange", lambda *_: False)
    name, write = writer
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        end_at(patch, name, point, interrupt)
        write(tmp_path / "checkpoint", replace=True)
    assert torch.equal(compute_logits(load_pruned(tmp_path / "checkpoint")), old)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("point", ["config", "weights", "plan", "manifest", "before the moves"])
def test_an_interruption_leaves_nothing_new(point, writer, tmp_path, monkeypatch) -> None:
    name, write = writer
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        end_at(patch, name, point, interrupt)
        write(tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_process_leaves_the_old_checkpoint(point, writer, old, tmp_path, monkeypatch):
    """Also where the system cannot exchange two folders in one step."""
    monkeypatch.setattr("pruning.write_aside._exchange", lambda *_: False)
    name, write = writer
    with monkeypatch.context() as patch:
        end_at(patch, name, point, kill)
        arguments = {"args": (tmp_path / "checkpoint",), "kwargs": {"replace": True}}
        process = get_context("fork").Process(target=write, **arguments)
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (half_written,) = tmp_path.glob(".checkpoint.*.nirvana-partial")
    is_whole = "moves" in point or (name, point) == ("save_pruned", "plan")
    assert is_pruned(half_written) is is_whole
    if point != "between the moves":
        assert torch.equal(compute_logits(load_pruned(tmp_path / "checkpoint")), old)
    with pytest.raises(NirvanaError, match="checkpoint holds something already"):  # put back by now
        write(tmp_path / "checkpoint")
    assert torch.equal(compute_logits(load_pruned(tmp_path / "checkpoint")), old)
    write(tmp_path / "checkpoint", replace=True)
    assert load_pruned(tmp_path / "checkpoint").config.model_type == "llama"
    with_content = [path.name for path in tmp_path.iterdir() if any(path.iterdir())]
    assert with_content == ["checkpoint"], "leftovers"


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
@pytest.mark.parametrize(("when", "type_"), [("instead", "bert"), ("after", "llama")])
def test_one_of_both_is_there_at_any_moment(when, type_, writer, old, tmp_path, monkeypatch):
    name, write = writer
    with monkeypatch.context() as patch:
        patch.setitem(POINTS, "exchange", ("pruning.write_aside._exchange", 1, when))
        end_at(patch, name, "exchange", kill)
        arguments = {"args": (tmp_path / "checkpoint",), "kwargs": {"replace": True}}
        process = get_context("fork").Process(target=write, **arguments)
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert load_pruned(tmp_path / "checkpoint").config.model_type == type_
    write(tmp_path / "checkpoint", replace=True)
    assert load_pruned(tmp_path / "checkpoint").config.model_type == "llama"
    with_content = [path.name for path in tmp_path.iterdir() if any(path.iterdir())]
    assert with_content == ["checkpoint"], "leftovers"


def test_only_leftovers_that_we_made_are_deleted(writer, tmp_path) -> None:
    names = {".checkpoint.abc_1234.nirvana-partial": False}
    names |= {".model.onnx.abc_1234.nirvana-partial": False}
    names |= {".checkpoint.partial": True, ".checkpoint.mine.nirvana-partial": True}
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    writer[1](tmp_path / "checkpoint")
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_a_folder_that_is_being_written_is_left_alone(writer, tmp_path) -> None:
    with write_new_folder(tmp_path / "checkpoint", "prune") as aside:
        writer[1](tmp_path / "checkpoint")
        assert aside.is_dir()
        (aside / "config.json").write_text("{}")
        (tmp_path / "checkpoint").rename(tmp_path / "other")


def test_save_pretrained_cut_short_never_looks_whole(old, tmp_path, monkeypatch) -> None:
    smaller = repack(make_tiny("bert"), PLANS["dropping"](make_tiny("bert")))
    for folder in ("checkpoint", "new"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            end_at(patch, "save_pruned", "manifest", interrupt)
            smaller.save_pretrained(tmp_path / folder)
    with pytest.raises(NirvanaError, match=r"checkpoint/config\.json is corrupt: it differs from"):
        load_pruned(tmp_path / "checkpoint")
    with pytest.raises(NirvanaError, match="Expected a pruned checkpoint in"):
        load_pruned(tmp_path / "new")


def test_a_used_folder_is_refused(writer, old, tmp_path) -> None:
    _, write = writer
    with pytest.raises(NirvanaError, match=r"checkpoint holds something already\. Choose a new or"):
        write(tmp_path / "checkpoint")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/thesis.txt").write_text("years of work")
    for used in ("notes", "notes/thesis.txt"):
        with pytest.raises(NirvanaError, match="no checkpoint that could be replaced"):
            write(tmp_path / used, replace=True)
    assert (tmp_path / "notes/thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "notes"]


def test_a_checkpoint_is_replaced_also_behind_a_link(writer, old, tmp_path) -> None:
    _, write = writer
    (tmp_path / "link").symlink_to(tmp_path / "checkpoint")
    write(tmp_path / "link", replace=True)
    assert load_pruned(tmp_path / "checkpoint").config.model_type == "llama"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    load_pruned(tmp_path / "empty")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "empty", "link"}
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("parent", ["/proc/nirvana", "/sys/nirvana", "/dev/null"])
def test_a_folder_that_cannot_be_written_is_named(parent: str, writer) -> None:
    with pytest.raises(NirvanaError, match=f"Cannot write in {parent}: .* Choose a folder that"):
        writer[1](f"{parent}/checkpoint")


def test_a_full_disk_leaves_the_old_checkpoint(writer, old, tmp_path, monkeypatch) -> None:
    name, write = writer
    with monkeypatch.context() as patch:
        end_at(patch, name, "weights", fill)
        with pytest.raises(
            NirvanaError, match=r"The disk is full: prune .*No space left on device"
        ):
            write(tmp_path / "checkpoint", replace=True)
    assert torch.equal(compute_logits(load_pruned(tmp_path / "checkpoint")), old)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
