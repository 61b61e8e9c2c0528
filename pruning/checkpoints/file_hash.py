"""The sha256 of a file, which every manifest carries."""

import hashlib
from pathlib import Path


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
