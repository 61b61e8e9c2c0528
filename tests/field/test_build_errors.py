"""What TensorRT logs is kept as it is, and common failures are explained beside it."""

from __future__ import annotations

import pytest

from exporters.engines.build_errors import advise, describe_parser_errors, explain
from exporters.engines.engine_config import EngineConfig


class FakeError:
    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def node_name(self) -> str:
        return "/layer.0/op"

    def node_operator(self) -> str:
        return "Rot"


class FakeParser:
    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self.num_errors = len(texts)

    def get_error(self, index: int) -> FakeError:
        return FakeError(self._texts[index])


@pytest.mark.parametrize(
    ("raw", "meaning"),
    [
        ("No importer registered for op: Rot", "TensorRT has no operator of that name"),
        ("Plugin not found, are the plugin name and version right?", "no operator of that name"),
        ("Error Code 1: Target GPU SM 70 is not supported by this release", "support matrix"),
        (
            "Error Code 10: Internal Error (Could not find any implementation for node {x})",
            "No kernel runs that node",
        ),
        ("ElementWise: operands must have same type", "The network is strongly typed"),
        ("[MUL] Types mismatch: Half and Float", "The network is strongly typed"),
        ("IShuffleLayer: reshape dimension 0 is 3 for kMAX", "some size that the profile allows"),
        ("Failed to parse ONNX model from file", "could not be read"),
    ],
)
def test_common_errors_are_explained_beside_the_raw_text(raw: str, meaning: str) -> None:
    described = describe_parser_errors(FakeParser(raw))
    assert f"node /layer.0/op (Rot): {raw}" in described and meaning in described
    assert meaning in advise([raw], EngineConfig())


def test_an_error_that_is_not_known_is_left_alone() -> None:
    assert explain(["something new"]) == "" == advise(["something new"], EngineConfig())
    assert describe_parser_errors(FakeParser("something new")).endswith("something new")


def test_what_the_settings_can_heal_comes_first() -> None:
    config = EngineConfig(workspace_mib=64)
    text = "Could not find any implementation for node x due to insufficient workspace"
    assert "Raise workspace_mib, which is 64" in advise([text], config)
    assert "ran out of memory" in advise(["OutOfMemory for dimension 4"], config)
