"""One repository in which the whole graph has run, and copies of it to try things in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.workspaces import Workspace, create


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workspace after `dvc repro`; tests only look at it."""
    workspace = create(tmp_path_factory.mktemp("pipeline") / "finished")
    workspace.ok("dvc", "repro")
    workspace.commit()
    return workspace


@pytest.fixture(scope="module")
def workspace(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A copy of the finished workspace for the tests of a module."""
    workspace = finished.copy(tmp_path_factory.mktemp("copy") / "workspace")
    yield workspace
    workspace.kill_all()
