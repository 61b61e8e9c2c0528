"""Real text as what int8-static is calibrated on, and compared on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporters.compare.cases import Case, make_tokens
from exporters.compare.checkpoint_artefact import describe_parts
from exporters.compare.compare_config import CompareConfig
from exporters.export_config import ExportConfig
from exporters.precision.calibration_text import (
    CalibrationRows,
    calibrate,
    draw_calibration,
    draw_rows,
)
from exporters.trace.list_parts import list_parts
from pruning.calibration.calibration_config import CalibrationConfig
from pruning.errors import NirvanaError
from tests.pruning.tiny_models import make_tiny
from tests.pruning.training.tiny_tasks import WORDS, make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, and a text file of a document a line."""
    folder = tmp_path_factory.mktemp("text")
    make_tiny("bert", num_hidden_layers=1).config.save_pretrained(folder)
    make_tokenizer(folder).save_pretrained(folder)
    lines = [" ".join(np.roll(WORDS, number)[:30]) for number in range(60)]
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")
    return folder


def config(folder: Path) -> CalibrationConfig:
    return CalibrationConfig(
        source=str(folder / "lines.txt"), num_sequences=6, sequence_length=16, batch_size=4
    )


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_every_graph_is_fed_with_text(name: str, folder: Path) -> None:
    model = make_tiny(name, "eager")
    parts = list_parts(model, ExportConfig(graphs="split"))
    source = describe_parts(name, model, parts)
    found = calibrate(source, model, folder, config(folder))
    assert found.told["source"].endswith("lines.txt") and found.told["num_sequences"] == 6
    assert set(found.feeds) == {part.name for part in parts}
    first = found.feeds[parts[0].name]
    fed = {tuple(row) for feed in first for row in feed["input_ids"]}
    rows = draw_rows(model, folder, config(folder))
    cut = 3 if name == "llama" else 0  # its last tokens come one by one
    assert fed == {tuple(ids[: len(ids) - cut]) for batch in rows for ids in batch.ids}
    assert len(found.held_out) == 6
    assert not fed >= {tuple(ids[: len(ids) - cut]) for ids in found.held_out}
    if name != "bert":
        steps = [feed for feed in found.feeds[parts[-1].name] if feed["input_ids"].shape[1] == 1]
        assert len(steps) == 3 * len(first)


def test_what_an_encoder_decoder_writes_goes_to_its_decoder() -> None:
    model = make_tiny("t5", "eager", num_layers=1)
    source = describe_parts("t5", model, list_parts(model, ExportConfig()))
    ids = np.array([[5, 6, 7]])
    written = np.array([[0, 11, 12, 13, 14, 15, 16]])
    rows = CalibrationRows(ids=ids, live=np.ones_like(ids), written=written)
    feeds = draw_calibration(source, [rows])
    (prompt,) = feeds["decoder_model"]
    np.testing.assert_array_equal(prompt["input_ids"], written[:, :4])
    steps = [feed["input_ids"].item() for feed in feeds["decoder_with_past_model"]]
    assert steps == [14, 15, 16]


def test_a_comparison_takes_the_text_that_it_is_given() -> None:
    model = make_tiny("bert", "eager", num_hidden_layers=1)
    source = describe_parts("bert", model, list_parts(model, ExportConfig()))
    text = (np.array([5, 6, 7, 8]), np.array([9, 10]))
    source = replace(source, facts=replace(source.facts, text=text))
    case = Case(batch=4, length=3, padding="none", num_steps=0)
    tokens = make_tokens(case, [source], CompareConfig())
    assert {tuple(row) for row in tokens.ids} <= {(5, 6, 7), (9, 10, 9)}


def test_without_a_text_inputs_are_random_and_that_is_said(tmp_path: Path) -> None:
    model = make_tiny("bert", "eager", num_hidden_layers=1)
    source = describe_parts("bert", model, list_parts(model, ExportConfig()))
    found = calibrate(source, model, tmp_path, None)
    assert found.told["source"].startswith("random inputs: no text was given")
    assert found.feeds["model"] and not found.held_out


def test_what_cannot_be_calibrated_on_is_refused(folder: Path, tmp_path: Path) -> None:
    model = make_tiny("bert", "eager", num_hidden_layers=1)
    source = describe_parts("bert", model, list_parts(model, ExportConfig()))
    with pytest.raises(NirvanaError, match="calibration is for the precision int8-static"):
        ExportConfig(calibration=CalibrationConfig())
    with pytest.raises(NirvanaError, match="Calibration on text needs the model's tokenizer"):
        calibrate(source, model, tmp_path, config(folder))
    long = replace(config(folder), sequence_length=200)
    with pytest.raises(NirvanaError, match=r"Set calibration\.sequence_length to at most 80"):
        calibrate(source, model, folder, long)
    image = make_tiny("vit", "eager", num_hidden_layers=1)
    pixels = describe_parts("vit", image, list_parts(image, ExportConfig()))
    with pytest.raises(NirvanaError, match="takes pixel_values"):
        calibrate(pixels, image, folder, config(folder))
