"""Finds the real tritonserver of this machine, and runs it on a model repository."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pruning.errors import NirvanaError
from pruning.strict_json import parse_json

ENVIRONMENT_VARIABLE = "NIRVANA_TRITON"
_INSTALL = (
    "python -m venv DIR && DIR/bin/pip install nvidia-pytriton onnxruntime tokenizers, then set "
    f"{ENVIRONMENT_VARIABLE}=DIR"
)
# Asked of the environment's own interpreter, which the backend embeds.
_PROBE = """
import importlib.util as util, json, sysconfig, sys
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "libdir": sysconfig.get_config_var("LIBDIR"),
    "packages": [n for n in ("numpy", "onnxruntime", "tokenizers") if util.find_spec(n)],
    "site": sysconfig.get_path("purelib"),
}))
"""
_POLL_SECONDS = 0.1
_STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonHome:
    """Where a tritonserver of nvidia-pytriton is, and the interpreter that its models run in."""

    environment: Path
    site: Path
    python_version: str
    python_libraries: Path

    @property
    def server(self) -> Path:
        """The program."""
        return self.site / "pytriton" / "tritonserver" / "bin" / "tritonserver"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that is ready; ports of the loopback address."""

    http_port: int
    grpc_port: int
    metrics_port: int
    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def url(self) -> str:
        """Where its HTTP is."""
        return f"http://127.0.0.1:{self.http_port}"


class _Probed(TypedDict):
    site: str
    version: str
    libdir: str
    packages: list[str]


def find_tritonserver(environment: Path | None = None) -> TritonHome:
    """Look for nvidia-pytriton in `environment`, by default in $NIRVANA_TRITON.

    It wants an environment of its own: it needs NumPy 1, and corrupts tensors of NumPy 2.

    Raises:
        NirvanaError: there is none, or it lacks what our models need; says how to install it.
    """
    named = environment or os.environ.get(ENVIRONMENT_VARIABLE)
    if not named:
        raise NirvanaError(f"No tritonserver was named to check the package with. Do: {_INSTALL}.")
    python = Path(named) / "bin" / "python"
    if not python.is_file():
        raise NirvanaError(
            f"{named} is not a virtual environment: expected {python} to be there. Do: {_INSTALL}."
        )
    # `-c` would put the current folder first on the import path.
    safe = {**os.environ, "PYTHONSAFEPATH": "1"}
    asked = subprocess.run(
        [python, "-c", _PROBE], capture_output=True, text=True, check=False, env=safe
    )
    if asked.returncode:
        raise NirvanaError(f"{python} does not run: {asked.stderr.strip()}. Do: {_INSTALL}.")
    found = parse_json(
        asked.stdout, _Probed, name=f"The answer of {python}", remedy=f"Do: {_INSTALL}."
    )
    home = TritonHome(
        environment=Path(named).absolute(),
        site=Path(found["site"]),
        python_version=found["version"],
        python_libraries=Path(found["libdir"]),
    )
    missing = [n for n in ("numpy", "onnxruntime", "tokenizers") if n not in found["packages"]]
    if not home.server.is_file():
        missing.insert(0, "nvidia-pytriton")
    if missing:
        raise NirvanaError(f"{named} lacks {', '.join(missing)}. Do: {_INSTALL}.")
    return home


@contextlib.contextmanager
def run_tritonserver(
    repository: Path,
    home: TritonHome,
    *,
    ports: Sequence[int] | None = None,
    start_seconds: float = 120.0,
) -> Iterator[RunningServer]:
    """Run a server on the loopback address until the block ends.

    `ports` are for HTTP, gRPC and metrics; by default three that are free. Python leaves its
    `__pycache__` in the repository.

    Raises:
        NirvanaError: it does not start; the message is the server's own reason.
    """
    with tempfile.TemporaryDirectory(prefix="nirvana-triton-") as folder:
        backends = _assemble_backends(home, Path(folder))
        log_path = Path(folder) / "server.log"
        http_port, grpc_port, metrics_port = ports or find_free_ports(3)
        command = [
            str(home.server),
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            *(f"--{what}-address=127.0.0.1" for what in ("http", "grpc", "metrics")),
            f"--http-port={http_port}",
            f"--grpc-port={grpc_port}",
            f"--metrics-port={metrics_port}",
            f"--exit-timeout-secs={_STOP_SECONDS:.0f}",
        ]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_make_environment(home),
                start_new_session=True,
            )
        server = RunningServer(
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            process=process,
            log_path=log_path,
        )
        try:
            _wait_until_ready(server, time.monotonic() + start_seconds)
            yield server
        finally:
            _stop(process)


def find_free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _assemble_backends(home: TritonHome, folder: Path) -> Path:
    """Put the Python backend and the stub of the interpreter's version together."""
    parts = home.site / "pytriton" / "tritonserver"
    stub = parts / "python_backend_stubs" / home.python_version / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted(path.name for path in (parts / "python_backend_stubs").iterdir())
        raise NirvanaError(
            f"{home.environment} runs Python {home.python_version}; its tritonserver serves models "
            f"in {', '.join(known)}. Make the environment with one of those."
        )
    target = folder / "backends" / "python"
    shutil.copytree(parts / "backends" / "python", target)
    shutil.copy2(stub, target)
    return target.parent


def _make_environment(home: TritonHome) -> dict[str, str]:
    # The backend's interpreter is isolated: it finds its packages by where `python3` is found.
    libraries = [home.site / "nvidia_pytriton.libs", home.python_libraries]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {
        **kept,
        "PYTHONSAFEPATH": "1",
        "PATH": f"{home.environment / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
    }


def _wait_until_ready(server: RunningServer, deadline: float) -> None:
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise NirvanaError(f"tritonserver refused it: {_read_reasons(server.log_path)}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{server.url}/v2/health/ready", timeout=5).close()
            return
        time.sleep(_POLL_SECONDS)
    raise NirvanaError(f"tritonserver was not ready in time: {_read_reasons(server.log_path)}")


def _read_reasons(log_path: Path) -> str:
    """Return the errors of a server's log, without what only says that there is no GPU."""
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [re.sub(r"^E\d+ \S+ \d+ \S+\] ", "", line) for line in lines if line.startswith("E")]
    reasons = [line.strip('"') for line in errors if "Cuda" not in line and "NVML" not in line]
    reasons += [line for line in lines if line.startswith("error:")]
    return " ".join(reasons).replace("\\n", " ") or " ".join(lines[-3:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let it finish what it answers, then end it and the processes of its models."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS + 5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
