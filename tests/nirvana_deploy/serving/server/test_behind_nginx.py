"""examples/nginx.conf before a real `nirvana serve`: TLS, passwords, limits."""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nirvana_deploy.serving.server.test_serve import (
    find_free_ports,
    request,
    start,
    stop,
    wait_until_ready,
)
from tests.nirvana_deploy.serving.server.test_serve import package as package
from tests.nirvana_deploy.serving.server.test_serve import pytestmark as pytestmark

CONFIG = Path(__file__).parents[4] / "examples" / "nginx.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
needs_nginx = pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None, reason="nginx and openssl are not installed"
)


@pytest.fixture(scope="module")
def proxy(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert NGINX is not None
    folder = tmp_path_factory.mktemp("nginx")
    served = start(package)
    wait_until_ready(served)
    (port,) = find_free_ports(1)
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    keys = ("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *keys],
        check=True,
        capture_output=True,
    )
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", "secret"], check=True, capture_output=True, text=True
    )
    (folder / "passwords").write_text(f"alice:{hashed.stdout}")
    (folder / "bodies").mkdir()
    text = CONFIG.read_text()
    for name, value in {
        "PID_FILE": folder / "pid",
        "ERROR_LOG": folder / "error.log",
        "BODY_FOLDER": folder / "bodies",
        "HTTP_PORT": served.http,
        "TLS_PORT": port,
        "CERTIFICATE": folder / "certificate.pem",
        "KEY;": f"{folder / 'key.pem'};",
        "PASSWORDS;": f"{folder / 'passwords'};",
    }.items():
        assert name in text
        text = text.replace(name, str(value))
    (folder / "nginx.conf").write_text(text)
    # Started by root, it would work as another user, who cannot read this folder.
    extra = "daemon off;" if os.getuid() else "daemon off; user root;"
    nginx = subprocess.Popen(
        [NGINX, "-c", str(folder / "nginx.conf"), "-g", extra], stderr=subprocess.PIPE
    )
    url = f"https://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while ask(f"{url}/v2/health/live", folder=folder)[0] != 200:
            assert nginx.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield f"{url} {folder}"
    finally:
        nginx.terminate()
        nginx.wait(120)
        assert stop(served) == 0


def ask(
    url: str, body: bytes | None = None, *, folder: Path, password: str | None = None
) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"}
    if password is not None:
        told = base64.b64encode(f"alice:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {told}"
    trust = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
    try:
        asked = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(asked, timeout=20, context=trust) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


@needs_nginx
def test_clients_come_by_tls_and_with_a_password(proxy: str) -> None:
    url, folder = proxy.split()
    infer = f"{url}/v2/models/tiny/infer"
    body = json.dumps(request()).encode()
    told = {"folder": Path(folder)}
    assert ask(infer, body, **told)[0] == 401
    assert ask(infer, body, password="guess", **told)[0] == 401
    status, answer = ask(infer, body, password="secret", **told)
    assert status == 200 and b"logits" in answer
    assert ask(f"{url}/metrics", password="secret", **told)[0] == 404
    assert ask(infer, b" " * 9_000_000, password="secret", **told)[0] in (0, 413)
    codes = [ask(infer, body, password="secret", **told)[0] for _ in range(120)]
    assert codes.count(200) >= 40 and set(codes) <= {200, 503}
