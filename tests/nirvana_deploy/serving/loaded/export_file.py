"""The part of `export.json` that loading reads, for graphs that a test has written."""

import json
from pathlib import Path

import onnxruntime

from pruning.checkpoints.file_hash import hash_file


def describe_export(folder: Path) -> Path:
    """Describe all graphs of a folder, and return it."""
    graphs = {}
    for path in sorted(folder.glob("*.onnx")):
        session = onnxruntime.InferenceSession(path)
        files = (path, *folder.glob(f"{path.name}.data"))
        graphs[path.stem] = {
            "file": path.name,
            "sha256": {file.name: hash_file(file) for file in files},
            "inputs": [{"name": node.name} for node in session.get_inputs()],
        }
    (folder / "export.json").write_text(json.dumps({"graphs": graphs}))
    return folder
