"""YAML's merge key: what stands beside `<<` wins, in every form of merging."""

from pathlib import Path

import pytest

from nirvana_deploy.runs.recipe import load_recipe
from nirvana_deploy.yaml_text import read_yaml
from pruning.errors import NirvanaError


def _read(text: str, folder: Path) -> tuple[dict[str, object], dict[str, int]]:
    path = folder / "x.yaml"
    path.write_text(text)
    return read_yaml(path)


def test_a_key_beside_the_merge_overrides_it(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "model: model\n"
        "baseline: &train {num_epochs: 1, learning_rate: 1e-3}\n"
        "prune:\n"
        "  <<: *train\n"
        "  num_epochs: 2\n"
    )
    recipe = load_recipe(path)
    assert (recipe.prune.num_epochs, recipe.prune.learning_rate) == (2, 1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("merged", "expected"),
    [
        ("<<: [*a, *b]", {"x": 1, "y": 2, "z": 4}),
        ("<<: [*b, *a]", {"x": 1, "y": 3, "z": 4}),
        ("<<: [*a, *b], z: 9", {"x": 1, "y": 2, "z": 9}),
        ("z: 9, <<: *b", {"y": 3, "z": 9}),
        ("<<: *c, y: 7", {"x": 1, "y": 7, "z": 5}),
        ("<<: {q: 1, <<: *a}", {"q": 1, "x": 1, "y": 2}),
        ('"<<": 3', {"<<": 3}),
    ],
)
def test_lists_of_merges_and_nested_ones(
    merged: str, expected: dict[str, int], tmp_path: Path
) -> None:
    text = (
        f"a: &a {{x: 1, y: 2}}\nb: &b {{y: 3, z: 4}}\nc: &c {{<<: [*a, *b], z: 5}}\nd: {{{merged}}}"
    )
    assert _read(text, tmp_path)[0]["d"] == expected


def test_a_merged_key_has_the_line_where_it_is_written(tmp_path: Path) -> None:
    text = "a: &a\n  x: 1\n  y: {p: 1}\nb:\n  <<: *a\n  x: 2\n"
    lines = _read(text, tmp_path)[1]
    assert (lines["b.x"], lines["b.y"], lines["b.y.p"]) == (6, 3, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a {x: 1}\nb:\n  <<: *a\n  x: 2\n  x: 3\n", r"x\.yaml:5: b\.x: given twice .*line 4"),
        ("a: &a {x: 1, x: 2}\nb: {<<: *a}\n", r"x\.yaml:1: a\.x: given twice"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", r"x\.yaml:4: b\.<<: given twice"),
        ("a: [{x: 1, x: 2}]\n", r"x\.yaml:1: a\.x: given twice"),
        ("a:\n  <<: 3\n", r"x\.yaml:2: << takes a mapping or a list"),
    ],
)
def test_real_duplicates_are_still_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(NirvanaError, match=message):
        _read(text, tmp_path)
