"""A cache folder that cannot be written is named, not the data set that is read through it."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from datasets import Dataset

from pruning.errors import NirvanaError
from pruning.tasks.data_config import DataConfig
from pruning.tasks.data_splits import load_splits, refuse_cache


def refuse(cache: Path) -> OSError:
    """Return what an operating system says of a folder that cannot be made below /proc."""
    return PermissionError(13, "Permission denied", str(cache))


@pytest.mark.parametrize("place", ["/proc/x/d", "/proc/x", "/proc/x/d/parquet/lock"])
def test_the_cache_and_its_variable_are_named(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("/proc/x/d"))
    wrapped = RuntimeError("cannot load")
    wrapped.__cause__ = refuse(Path(place))
    with pytest.raises(NirvanaError, match=r"/proc/x/d, cannot be written: .* HF_DATASETS_CACHE"):
        refuse_cache(wrapped)


def test_other_places_and_errors_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("/proc/x/d"))
    refuse_cache(refuse(Path("/data/train.parquet")))
    refuse_cache(ValueError("malformed"))


def test_a_data_set_is_not_blamed_for_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / f"{split}.parquet")
    blocked = tmp_path / "file"
    blocked.write_text("")  # no folder can be made below a file, not even by root
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", blocked / "d")
    with pytest.raises(NirvanaError, match="HF_DATASETS_CACHE"):
        load_splits(DataConfig(dataset=str(tmp_path)))
