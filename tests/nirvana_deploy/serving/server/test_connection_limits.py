"""How many connections a server takes, by the system's limit on open files."""

import resource

import pytest

pytest.importorskip("uvicorn", reason="uvicorn (extra serve) is missing")
from nirvana_deploy.serving.server.request_limits import (
    BACKLOG,
    METRICS_CONNECTIONS,
    count_free_files,
    share_connections,
)
from nirvana_deploy.serving.server.serve_config import ServeConfig


@pytest.mark.parametrize(
    ("allowed", "least", "most"),
    [
        (1024, 512, 1024 - 4 * BACKLOG),
        (256, 32, 256 - 4 * BACKLOG),
        (20, 24, 24),
        (resource.RLIM_INFINITY, 2**20, 2**31),
    ],
)
def test_connections_leave_room_for_other_files_and_for_those_accepted_at_once(
    monkeypatch: pytest.MonkeyPatch, allowed: int, least: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    assert least <= count_free_files() <= most
    share = share_connections(ServeConfig())
    assert 8 <= share <= ServeConfig().max_connections
    assert 2 * share + METRICS_CONNECTIONS <= count_free_files()
