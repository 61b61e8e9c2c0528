"""Nothing of a package is loaded that its manifest does not vouch for."""

import json
from pathlib import Path

import pytest

from nirvana_deploy.serving.package_config import PackageConfig
from nirvana_deploy.serving.package_manifest import check_package, write_manifest
from pruning.errors import NirvanaError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"weights")
    (folder / "README.md").write_text("read me")
    write_manifest(folder, PackageConfig(max_batch_size=64), ("numpy",))
    return folder


def edit(package: Path, **changes: object) -> None:
    document = json.loads((package / "package.json").read_text())
    (package / "package.json").write_text(json.dumps({**document, **changes}))


def test_a_package_as_it_was_written_passes(package: Path) -> None:
    manifest = check_package(package)
    assert (manifest.stack, manifest.settings["max_batch_size"]) == ("triton", 64)
    assert sorted(manifest.sha256) == ["README.md", "model/weights"]
    assert manifest.versions["numpy"] is not None


def test_a_changed_missing_or_added_file_is_named(package: Path) -> None:
    (package / "model" / "weights").write_bytes(b"other")
    with pytest.raises(NirvanaError, match=r"model/weights has SHA-256 .*package\.json says"):
        check_package(package)
    (package / "model" / "weights").unlink()
    with pytest.raises(NirvanaError, match=r"model/weights is missing\. Package the model again"):
        check_package(package)
    (package / "model" / "weights").write_bytes(b"weights")
    (package / "model" / "more.py").write_text("import os")
    with pytest.raises(NirvanaError, match=r"more\.py was not packaged: package\.json does not"):
        check_package(package)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "model/../../secret"])
def test_a_path_out_of_the_package_is_refused(package: Path, name: str) -> None:
    edit(package, sha256={name: "0" * 64})
    with pytest.raises(NirvanaError, match="names a file outside its folder"):
        check_package(package)


def test_a_link_out_of_the_package_is_refused(package: Path) -> None:
    (package.parent / "secret").write_bytes(b"weights")
    (package / "model" / "weights").unlink()
    (package / "model" / "weights").symlink_to(package.parent / "secret")
    with pytest.raises(NirvanaError, match="weights is a link out of the package"):
        check_package(package)


@pytest.mark.parametrize("target", ["outside", "nowhere"])
def test_a_link_that_was_not_packaged_is_refused(package: Path, target: str) -> None:
    """Behind a linked folder there would be files without a hash."""
    (package.parent / "outside").mkdir()
    (package.parent / "outside" / "model.onnx").write_bytes(b"other")
    (package / "model" / "3").symlink_to(package.parent / target)
    with pytest.raises(NirvanaError, match=r"model/3 was not packaged: package\.json does not"):
        check_package(package)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", r"package\.json cannot be read: it is not JSON"),
        ("[]", "cannot be read: its top level: expected an object, got a list"),
        ('{"manifest_version": 1}', "object missing required field `stack`"),
        (
            '{"manifest_version": 9, "stack": "triton", "sha256": {}, "versions": {}, '
            '"settings": {}}',
            "has manifest version 9; this package reads 1",
        ),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(package: Path, text: str, message: str) -> None:
    (package / "package.json").write_text(text)
    with pytest.raises(NirvanaError, match=message):
        check_package(package)
    (package / "package.json").unlink()
    with pytest.raises(NirvanaError, match=r"is missing: .* is not a package of `nirvana package`"):
        check_package(package)
