"""A Ray Serve application of this package. In its folder: `serve run ray_app:app`.

Speaks the Open Inference Protocol over HTTP: /v2/health/ready and /v2/models/NAME/infer, the newest
version alone. Replicas are added as requests wait. Needs ray[serve], onnxruntime and numpy.
"""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException, Request
from ray import serve

FOLDER = Path(__file__).absolute().parent
MANIFEST = json.loads((FOLDER / "package.json").read_text(encoding="utf-8"))
NAME = MANIFEST["settings"]["model_name"]
MAX_ROWS = MANIFEST["settings"]["max_batch_size"]
MAX_BODY_BYTES = 8 * 2**20
TYPES = {
    "tensor(int64)": ("INT64", np.int64),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(float)": ("FP32", np.float32),
}
AUTOSCALING = {"min_replicas": 2, "max_replicas": 4, "target_ongoing_requests": 8}

api = FastAPI()


def check_hash(path: Path) -> None:
    """Raise RuntimeError unless the manifest vouches for a file."""
    name = path.relative_to(FOLDER).as_posix()
    if hashlib.sha256(path.read_bytes()).hexdigest() != MANIFEST["sha256"].get(name):
        raise RuntimeError(f"{path} is not the file that was packaged. Package the model again.")


# Ray takes the class with what was defined before it, and nothing after.
@serve.deployment(
    autoscaling_config=AUTOSCALING,
    max_ongoing_requests=32,
    max_queued_requests=256,
    ray_actor_options={"num_cpus": 1},
)
@serve.ingress(api)
class Model:
    """One replica: a session of ONNX Runtime, which answers one request at a time."""

    def __init__(self) -> None:
        """Load the newest version, whose files must be those that were packaged."""
        model_dir = FOLDER / "model_repository" / NAME
        versions = [path for path in model_dir.iterdir() if path.is_dir()]
        folder = max(versions, key=lambda path: int(path.name))
        for path in folder.rglob("*"):
            if path.suffix != ".pyc" and path.is_file():
                check_hash(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.version = folder.name
        self.inputs = {node.name: TYPES[node.type] for node in self.session.get_inputs()}
        self.outputs = [node.name for node in self.session.get_outputs()]
        self.one_at_a_time = asyncio.Lock()

    @api.get("/v2/health/{what}")
    async def health(self, what: str) -> dict[str, bool]:
        """Say that this replica is up."""
        if what not in ("live", "ready"):
            raise HTTPException(404, f"There is no health {what}.")
        return {what: True}

    @api.post("/v2/models/{name}/infer")
    async def infer(self, name: str, request: Request) -> dict[str, object]:
        """Answer a request, or say what is wrong with it."""
        if name != NAME:
            raise HTTPException(404, f"Model {name} not found; this is {NAME}.")
        if int(request.headers.get("content-length", MAX_BODY_BYTES + 1)) > MAX_BODY_BYTES:
            raise HTTPException(413, f"The body must have a length, of at most {MAX_BODY_BYTES}.")
        try:
            feeds = self.read(json.loads(await request.body()))
            async with self.one_at_a_time:
                arrays = await asyncio.to_thread(self.session.run, self.outputs, feeds)
        except Exception as error:  # of JSON, of numpy, or ONNX Runtime's, which have no base
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise HTTPException(400, reason) from error
        rows = zip(self.outputs, arrays)  # noqa: B905
        return {
            "model_name": NAME,
            "model_version": self.version,
            "outputs": [
                {"name": n, "datatype": "FP32", "shape": list(a.shape), "data": a.ravel().tolist()}
                for n, a in rows
            ],
        }

    def read(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return arrays by name; raise ValueError for what the model does not take."""
        given = {each["name"]: each for each in body["inputs"]}
        if set(given) != set(self.inputs):
            raise ValueError(f"The model takes {sorted(self.inputs)}, got {sorted(given)}.")
        feeds = {}
        for name, (datatype, dtype) in self.inputs.items():
            each = given[name]
            if each["datatype"] != datatype or not 1 <= each["shape"][0] <= MAX_ROWS:
                raise ValueError(f"{name} must be {datatype} of 1 to {MAX_ROWS} rows.")
            feeds[name] = np.array(each["data"], dtype).reshape(each["shape"])
        return feeds


app = Model.bind()  # type: ignore[attr-defined]  # what the decorator makes of it
