"""A repository for each test, and one Prefect database and server for all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from flows.process import Supervised
from tests.flows.workspaces import Workspace, free_port, wait_until


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Prefect database for all tests, since making it takes seconds."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def workspace(tmp_path: Path, prefect_home: Path) -> Iterator[Workspace]:
    workspace = Workspace(tmp_path, prefect_home)
    yield workspace
    for process in workspace.processes():  # of a test that failed
        process.kill()


@pytest.fixture(scope="session")
def server_url(prefect_home: Path) -> Iterator[str]:
    port = free_port()
    process = Supervised(
        "server",
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-scheduler"],
        env={**os.environ, "PREFECT_HOME": str(prefect_home)},
        grace_seconds=5,
        output=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/api"
    wait_until(lambda: answers(url), 90, "the Prefect server does not answer")
    yield url
    process.stop()
    process.wait()


@pytest.fixture
def served(workspace: Workspace, server_url: str) -> Workspace:
    """A workspace whose flows need not start a server first."""
    workspace.env["PREFECT_API_URL"] = server_url
    return workspace


def answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5):
            return True
    except (URLError, OSError):
        return False
