"""The file in a package that says what it was made of, and vouches for its files by hash."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from nirvana_deploy.fingerprints import find_versions
from nirvana_deploy.serving.package_config import PackageConfig
from pruning.checkpoints.file_hash import check_inside, hash_file
from pruning.errors import NirvanaError
from pruning.strict_json import JsonObject, convert_json, read_object


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageResult:
    """Say what was packaged.

    Attributes:
        folder: what the server is given, relative to the package's folder.
        models: names of the models in it.
        files: all files, relative to the package's folder.
        notes: what whoever serves it must know, a line each.
        server_check: what the real server was found to do with it; None: it was not asked.
    """

    folder: str
    models: tuple[str, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    server_check: dict[str, object] | None = None

    def to_json(self) -> JsonObject:
        """Return plain data for a stage manifest."""
        lists = {name: list(getattr(self, name)) for name in ("models", "files", "notes")}
        return {**asdict(self), **lists}


MANIFEST_NAME = "package.json"
_MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageManifest:
    """Say what a package holds.

    Attributes:
        stack: the server that it is for, such as `triton`.
        sha256: by file, relative to the package; all files but the manifest itself.
        versions: of the libraries that took part.
        settings: of the package; also `max_positions`, the most tokens per row, where it is known.
    """

    stack: str
    sha256: dict[str, str]
    versions: dict[str, str | None]
    settings: JsonObject


def write_manifest(
    folder: Path,
    config: PackageConfig,
    packages: tuple[str, ...],
    *,
    max_positions: int | None = None,
) -> PackageManifest:
    """Write the manifest of the files that are in `folder` now."""
    limits = {} if max_positions is None else {"max_positions": max_positions}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = PackageManifest(
        stack=config.to,
        sha256={path.relative_to(folder).as_posix(): hash_file(path) for path in files},
        versions=find_versions(("nirvana-deploy", *packages)),
        settings={**asdict(config), **limits},
    )
    document = {"manifest_version": _MANIFEST_VERSION, **asdict(manifest)}
    text = json.dumps(document, indent=2) + "\n"
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return manifest


def check_package(folder: Path) -> PackageManifest:
    """Return the manifest when every file that it names is as it was packaged, and none is new.

    Raises NirvanaError otherwise. Call this before anything of a package is loaded.
    """
    manifest = _read_manifest(folder)
    for name, expected in manifest.sha256.items():
        path = folder / check_inside(name, folder)
        if not path.is_file():
            raise NirvanaError(f"{path} is missing. Package the model again.")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise NirvanaError(f"{path} is a link out of the package. Package the model again.")
        found = hash_file(path)
        if found != expected:
            raise NirvanaError(
                f"{path} has SHA-256 {found[:12]}..., {MANIFEST_NAME} says {expected[:12]}... . "
                "Package the model again."
            )
    # A link to a folder is no folder: what is behind it has no hash here.
    found_here = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = {path.relative_to(folder).as_posix() for path in found_here} - {MANIFEST_NAME}
    if unknown := sorted(names - set(manifest.sha256)):
        raise NirvanaError(
            f"{folder / unknown[0]} was not packaged: {MANIFEST_NAME} does not name it. Remove it, "
            "or package the model again."
        )
    return manifest


def _read_manifest(folder: Path) -> PackageManifest:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise NirvanaError(f"{path} is missing: {folder} is not a package of `nirvana package`.")
    remedy = "Package the model again."
    document = read_object(path, remedy=remedy)
    version = document.pop("manifest_version", None)
    if version != _MANIFEST_VERSION:
        raise NirvanaError(
            f"{path} has manifest version {version!r}; this package reads {_MANIFEST_VERSION}. "
            f"{remedy}"
        )
    return convert_json(document, PackageManifest, name=str(path), remedy=remedy, exact=True)
