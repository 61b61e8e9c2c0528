"""What the docstring of a config says of its fields is their help; its sample is a recipe."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
import yaml

from exporters.compare.compare_config import CompareConfig
from nirvana_deploy.config_reader import config_types, describe_fields, read_config
from nirvana_deploy.runs.recipe import Recipe
from nirvana_deploy.serving.server.serve_config import ServeConfig
from profiles.measuring.measure_config import SweepConfig
from profiles.runners.run_config import RunConfig


def list_configs(config: type[Any]) -> Iterator[type[Any]]:
    yield config
    for hint in get_type_hints(config).values():
        for nested in config_types(hint):
            yield from list_configs(nested)


ROOTS = (Recipe, RunConfig, CompareConfig, ServeConfig, SweepConfig)
CONFIGS = {config.__name__: config for root in ROOTS for config in list_configs(root)}


def list_values(config: Any) -> Iterator[Any]:
    yield config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from list_values(value)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_field_is_described(config: type[Any]) -> None:
    told, hints = describe_fields(config), get_type_hints(config)
    assert set(told) <= set(hints)
    for name, hint in hints.items():
        about = told.get(name)
        assert about is not None or config_types(hint), name
        assert about is None or re.fullmatch(r"[A-Z].*\.", about), name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_sample_is_what_it_is_for(config: type[Any]) -> None:
    lines = (inspect.getdoc(config) or "").partition("\nAttributes:")[0].splitlines()
    sample = yaml.safe_load("\n".join(line[4:] for line in lines if line.startswith("    ")))
    if not dataclasses.fields(config):
        return
    if set(sample) <= {field.name for field in dataclasses.fields(config)}:
        read_config(config, sample)
        return
    recipe = read_config(Recipe, {"model": "some/model", **sample})
    assert any(isinstance(value, config) for value in list_values(recipe))
