"""A verb that wants a checkpoint says what an ONNX file is, and which verbs take it."""

from pathlib import Path

import pytest

from nirvana_deploy.cli import main
from pruning.checkpoints.model_source import fetch_model, refuse_onnx, resolve_model
from pruning.errors import NirvanaError


@pytest.mark.parametrize(
    "command",
    [["score", "{}", "--out", "x"], ["prune", "{}", "--out", "x"], ["export", "{}", "--out", "x"]],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_verbs_say_what_the_file_is(
    command: list[str],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "export" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"x")
    source = path if kind == "file" else path.parent
    assert main([part.format(source) for part in command]) == 1
    said = capsys.readouterr().err
    assert "ONNX" in said
    assert "checkpoint" in said
    assert "nirvana surgeon" in said
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["m.onnx", "M.ONNX"])
def test_the_api_says_it_too(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    for load in (resolve_model, fetch_model, refuse_onnx):
        with pytest.raises(NirvanaError, match=r"is an ONNX file\. Expected a checkpoint"):
            load(str(tmp_path / name))


def test_a_file_of_weights_names_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(NirvanaError, match=r"is a file\. .* Give the folder that it is in"):
        resolve_model(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("name", ["model.gguf", "pytorch_model.bin"])
def test_a_file_of_another_format_is_to_be_saved_as_a_checkpoint(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        NirvanaError, match=r"is a file\. .* save it by save_pretrained to a folder"
    ):
        resolve_model(str(tmp_path / name))
