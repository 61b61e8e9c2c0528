"""Proves a Triton package by the real server: accepted, right over HTTP and gRPC, batched."""

from __future__ import annotations

import concurrent.futures
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporters.compare.difference import Difference, measure_difference
from exporters.graphs.load_graph import find_id_limits
from exporters.onnx_session import open_session
from nirvana_deploy.serving.onnx_signature import OnnxSignature, read_signature
from nirvana_deploy.serving.package_manifest import check_package
from nirvana_deploy.serving.server.protocol_client import ask_grpc, ask_http, get_json, make_rows
from nirvana_deploy.serving.triton.triton_package import (
    MODEL_NAME,
    REPOSITORY_NAME,
    check_triton_repository,
    copy_graph,
    copy_python_model,
    list_versions,
)
from nirvana_deploy.serving.triton.triton_schema import (
    CONFIG_NAME,
    load_schema,
    read_backend,
    read_config_file,
)
from nirvana_deploy.serving.triton.triton_text_check import compare_text
from nirvana_deploy.serving.triton.tritonserver import (
    RunningServer,
    TritonHome,
    find_tritonserver,
    run_tritonserver,
)
from pruning.checkpoints.file_hash import hash_file
from pruning.errors import NirvanaError

# Two sessions of one graph, of the same or another version of ONNX Runtime, in fp32.
_TOLERANCE = 1e-4
_LENGTHS = (7, 16)
_BURST = 64
_NUM_BURSTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCheck:
    """What the real server did.

    Attributes:
        stood_in: models that ran ONNX in the Python backend, for a backend that is not here.
        max_abs_difference: of all answers to those of ONNX Runtime.
        rows_per_run: of a burst of single rows, how many ran together on average.
        refused: what the server said to one row more than it takes.
    """

    server: str
    models: tuple[str, ...]
    stood_in: tuple[str, ...]
    num_answers: int
    max_abs_difference: float
    rows_per_run: float
    refused: str

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {**asdict(self), "models": list(self.models), "stood_in": list(self.stood_in)}


def check_with_server(
    package: Path, *, onnx: Path | None = None, home: TritonHome | None = None
) -> ServerCheck:
    """Serve a copy of a package's repository and hold its answers against ONNX Runtime's.

    nvidia-pytriton has the Python backend alone: a model for another one is checked by Triton's
    core with its own configuration, and its graph is served by the Python backend. An engine's
    graph is `onnx`.

    Raises:
        NirvanaError: the server refuses the package, answers wrongly, takes a batch that is too
            large, or never runs requests together; or there is no server here.
    """
    home = home or find_tritonserver()
    check_package(package)
    names = check_triton_repository(package / REPOSITORY_NAME)
    with tempfile.TemporaryDirectory(prefix="nirvana-check-") as folder:
        repository = Path(folder) / "repository"
        shutil.copytree(package / REPOSITORY_NAME, repository)
        stood_in = tuple(name for name in names if _stand_in(repository / name, onnx))
        graphs = list(_list_graphs(repository))
        with run_tritonserver(repository, home) as server:
            differences = [
                difference
                for model, version, signature in graphs
                for difference in _compare(server, repository / model, version, signature)
            ]
            differences += [
                difference
                for name in names
                if read_config_file(repository / name / CONFIG_NAME).platform == "ensemble"
                for difference in compare_text(server.url, repository, name)
            ]
            model, _, signature = graphs[-1]
            limit = read_config_file(repository / model / CONFIG_NAME).max_batch_size
            return ServerCheck(
                server=_describe_server(server),
                models=names,
                stood_in=stood_in,
                num_answers=len(differences),
                max_abs_difference=max(differences),
                rows_per_run=_send_burst(server, model, signature, limit),
                refused=_send_too_much(server, model, signature, limit),
            )


def _stand_in(model_dir: Path, onnx: Path | None) -> bool:
    """Turn a copied model into one of the Python backend; tell whether it was not one before."""
    schema = load_schema()
    path = model_dir / CONFIG_NAME
    message = read_config_file(path)
    if message.platform == "ensemble":
        return False
    for group in message.instance_group:
        # The core wants a driver for anything else.
        group.kind = schema.ModelInstanceGroup.KIND_CPU
    backend = read_backend(message)
    if backend != "python":
        for version_dir in list_versions(model_dir):
            if backend == "tensorrt":
                if onnx is None:
                    raise NirvanaError(
                        f"{model_dir.name} is an engine: give the ONNX file that it was built from."
                    )
                copy_graph(onnx, version_dir)
            for name in (MODEL_NAME, *read_signature(version_dir / MODEL_NAME).data_files):
                key = f"sha256:{version_dir.name}/{name}"
                message.parameters[key].string_value = hash_file(version_dir / name)
            copy_python_model(version_dir)
        message.backend, message.default_model_filename = "python", ""
        # The core takes a profile of nothing else, whatever the backend is.
        message.platform = "tensorrt_plan" if backend == "tensorrt" else ""
    from google.protobuf import text_format

    path.write_text(text_format.MessageToString(message), encoding="utf-8")
    return backend != "python"


def _list_graphs(repository: Path) -> Iterator[tuple[str, str, OnnxSignature]]:
    for model_dir in sorted(repository.iterdir()):
        for version_dir in list_versions(model_dir):
            if (version_dir / MODEL_NAME).is_file():
                yield model_dir.name, version_dir.name, read_signature(version_dir / MODEL_NAME)


def _compare(
    server: RunningServer, model_dir: Path, version: str, signature: OnnxSignature
) -> Iterator[float]:
    """Yield the difference of each answer, over HTTP and over gRPC."""
    path = model_dir / version / MODEL_NAME
    session = open_session(path, is_trusted=True)
    limit = read_config_file(model_dir / CONFIG_NAME).max_batch_size
    num_tokens = find_id_limits(path).get("input_ids", 20)
    ways = ((ask_http, server.url), (ask_grpc, f"127.0.0.1:{server.grpc_port}"))
    for ask, address in ways:
        for rows in sorted({1, min(3, limit), limit}):
            for length in _LENGTHS:
                inputs = make_rows(
                    signature, rows, length, seed=rows * length, num_tokens=num_tokens
                )
                expected = session.run([t.name for t in signature.outputs], dict(inputs))
                came = ask(address, model_dir.name, version, inputs, signature)
                served = {
                    tensor.name: np.asarray(came[tensor.name]) for tensor in signature.outputs
                }
                ours = dict(zip(served, map(np.asarray, expected), strict=True))
                found = compare_answers(ours, served)
                if not found.scaled <= _TOLERANCE or found.agreement not in (None, 1.0):
                    raise NirvanaError(
                        f"Served, {found.output} of {model_dir.name} version {version} differs "
                        f"from ONNX Runtime by {found.max_abs:.2e} on {rows} rows of {length} "
                        f"({ask.__name__}); expected at most {_TOLERANCE * found.worst.scale:.0e}. "
                        "Do not serve this package."
                    )
                yield found.max_abs


def compare_answers(ours: Mapping[str, Any], served: Mapping[str, Any]) -> Difference:
    """Compare each output by its own scale; one of another size is infinitely far."""
    return measure_difference(
        ours,
        {
            name: value.reshape(ours[name].shape) if value.size == ours[name].size else value
            for name, value in served.items()
        },
        None,
        tie=_TOLERANCE,
    )


def _send_burst(server: RunningServer, model: str, signature: OnnxSignature, limit: int) -> float:
    """Send single rows at once and return how many ran together, from the server's statistics."""
    inputs = make_rows(signature, 1, _LENGTHS[-1])
    rows = runs = 0
    for _ in range(_NUM_BURSTS):
        before = _count(server, model)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            jobs = [
                pool.submit(ask_http, server.url, model, "", inputs, signature)
                for _ in range(_BURST)
            ]
            for job in jobs:
                job.result()
        after = _count(server, model)
        rows, runs = after[0] - before[0], after[1] - before[1]
        if runs < rows or limit == 1:
            return rows / runs
    raise NirvanaError(
        f"{_NUM_BURSTS} bursts of {_BURST} requests at once ran one by one: {model} does not "
        "batch. Look at dynamic_batching in its config.pbtxt."
    )


def _count(server: RunningServer, model: str) -> tuple[int, int]:
    """Return the rows and the runs so far, of all versions."""
    stats = get_json(f"{server.url}/v2/models/{model}/stats")["model_stats"]
    return (
        sum(int(version["inference_count"]) for version in stats),
        sum(int(version["execution_count"]) for version in stats),
    )


def _send_too_much(server: RunningServer, model: str, signature: OnnxSignature, limit: int) -> str:
    """Send one row too many and return what the server said to it."""
    try:
        ask_http(server.url, model, "", make_rows(signature, limit + 1, _LENGTHS[0]), signature)
    except NirvanaError as error:
        if "batch-size must be <=" in str(error):
            return str(error)
        raise
    raise NirvanaError(f"The server took {limit + 1} rows of {model}, whose limit is {limit}.")


def _describe_server(server: RunningServer) -> str:
    found = get_json(f"{server.url}/v2")
    return f"{found['name']} {found['version']}"
