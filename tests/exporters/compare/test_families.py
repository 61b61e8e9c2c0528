"""Every family can be run through the cases: its inputs are known, its blocks are found."""

import numpy as np
import pytest

from exporters.compare.case_run import run_case
from exporters.compare.cases import Case, make_tokens
from exporters.compare.checkpoint_artefact import describe_parts
from exporters.compare.compare_config import CompareConfig
from exporters.export_config import ExportConfig
from exporters.trace.list_parts import list_parts
from tests.pruning.tiny_models import TINY, make_tiny

CASE = Case(batch=2, length=8, padding="left", num_steps=2)


@pytest.mark.parametrize("name", TINY)
def test_a_family_runs_and_gives_its_blocks(name: str) -> None:
    model = make_tiny(name, "eager")
    artefact = describe_parts(name, model, list_parts(model, ExportConfig()))
    tokens = make_tokens(CASE, [artefact], CompareConfig())
    calls = run_case(artefact, CASE, tokens)
    steps = ["prompt", "step 1", "step 2"]
    expected = ["encoder", *steps] if model.config.is_encoder_decoder else steps
    assert [call.what for call in calls] == (expected if TINY[name].generates else ["outputs"])
    for call in calls:
        assert all(np.isfinite(value).all() for value in call.outputs.values())
        blocks = artefact.graphs[call.graph].run_blocks(call.feeds)
        assert list(blocks) == [0, 1, 2]
        # What a block gives is hidden states: one row a token of this call (or patch of an image).
        assert {value.ndim for value in blocks.values()} == {3}
        if "input_ids" in call.feeds:
            assert {v.shape[:2] for v in blocks.values()} == {call.feeds["input_ids"].shape}
