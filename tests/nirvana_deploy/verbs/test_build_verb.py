"""`nirvana build`: its flags, what it leaves behind, and Ctrl-C, with builds of one operator."""

import signal
from pathlib import Path

import pytest

import nirvana_deploy as api
from nirvana_deploy.cli import main
from pruning.errors import NirvanaError
from tests.exporters.engines.engine_folders import write_engine
from tests.exporters.engines.engine_models import save_op

ATTENTION = ("batch", 2, "sequence", 8)  # a head dim without a kernel


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_op(tmp_path / "op.onnx", "Attention", ATTENTION, num_inputs=3)


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx (extra rtx) is not installed")


@pytest.mark.tensorrt
def test_an_attention_that_is_not_fused_fails_on_demand(rtx, source: Path, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["build", str(source), "--out", str(out), "--require-fused-attention"]) == 1
    told = capsys.readouterr().err
    assert "require_fused_attention: 1 of 1 attentions are not fused (the_node)" in told
    assert not out.exists()
    assert (tmp_path / "out.build.log").is_file()
    assert main(["build", str(source), "--out", str(out)]) == 0
    assert "1 of 1 attentions are not fused" in capsys.readouterr().out


@pytest.mark.tensorrt
def test_ctrl_c_leaves_nothing_half(rtx, source: Path, tmp_path, monkeypatch) -> None:
    def interrupt(self: object, *args: object, **kwargs: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("rich.progress.Progress.update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        api.build(source, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["op.onnx"]


def test_a_refit_takes_no_setting(source: Path, tmp_path: Path, capsys) -> None:
    write_engine(tmp_path / "engine")
    command = ["build", str(source), "--out", str(tmp_path / "out"), "--refit"]
    command.append(str(tmp_path / "engine"))
    assert main([*command, "--precision", "fp32"]) == 1
    assert "A refit keeps all settings of the engine" in capsys.readouterr().err
    assert main(command) == 1
    assert "was not built to be refitted" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(NirvanaError, match="is not the folder of a built"):
        api.build(source, out=tmp_path / "out", refit=tmp_path)


def test_a_folder_under_a_file_is_refused(source: Path, capsys) -> None:
    assert main(["build", str(source), "--out", str(source / "engine")]) == 1
    assert f"Cannot write in {source}: {source} is a file." in capsys.readouterr().err


def test_an_engine_is_not_inspected(tmp_path: Path, capsys) -> None:
    write_engine(tmp_path / "engine")
    assert main(["inspect", str(tmp_path / "engine")]) == 1
    assert "is an engine, of which nothing can be pruned" in capsys.readouterr().err
