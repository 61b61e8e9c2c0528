"""`nirvana run-engine` on a stand-in for a GPU; the oracle is ONNX Runtime on the same graph."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from nirvana_deploy.cli import main
from tests.exporters.engines.fake_tensorrt import (
    make_flavour,
    stand_in_for_gpu,
    write_fake_engine,
)
from tests.profiles.fake_runners import make_encoder

BOUNDS = dict.fromkeys(("input_ids", "attention_mask"), ((1, 2), (2, 8), (4, 16)))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "tensorrt", make_flavour("tensorrt"))
    stand_in_for_gpu(monkeypatch)
    return str(write_fake_engine(tmp_path / "engine", make_encoder(), [BOUNDS], "tensorrt"))


def test_given_inputs_come_out_as_the_graph_has_it(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"input_ids": np.array([[3, 1, 4]]), "attention_mask": np.array([[1, 1, 0]])}
    np.savez(tmp_path / "in.npz", **given)
    files = ["--inputs", str(tmp_path / "in.npz"), "--out", str(tmp_path / "out.npz")]
    assert main(["run-engine", engine, *files, "--cuda-graph"]) == 0
    session = onnxruntime.InferenceSession(make_encoder().SerializeToString())
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(found["logits"], session.run(None, given)[0], rtol=1e-6)
    printed = capsys.readouterr().out
    assert "profile 0 of 1" in printed and "fake device" in printed
    assert "gpu_compute" in printed and "1.500 ms" in printed


def test_inputs_are_made_up_of_the_shapes_it_is_tuned_for(
    engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run-engine", engine]) == 0
    assert "float32 [2, 3]" in capsys.readouterr().out


def test_bad_files_are_refused(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"no zip")
    single = tmp_path / "single.npy"
    np.save(single, np.zeros(2))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, input_ids=np.array([{}], dtype=object))
    for flags, message in (
        (["--inputs", str(tmp_path / "none.npz")], "none.npz is missing"),
        (["--inputs", str(bad)], "is no .npz file of plain arrays"),
        (["--inputs", str(single)], "is no .npz file of plain arrays. Write it"),
        (["--inputs", str(pickled)], "is no .npz file of plain arrays. Write it"),
        (["--out", str(bad)], "which exists already"),
        (["--out", str(tmp_path / "out.bin")], "Expected a new .npz file"),
    ):
        assert main(["run-engine", engine, *flags]) != 0
        assert message in " ".join(capsys.readouterr().err.split())
