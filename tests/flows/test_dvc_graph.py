"""The graph that flows follow is DVC's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.dvc_graph import plan
from tests.flows.workspaces import Workspace

GRAPH = """
stages:
  evaluate: {cmd: 'true', deps: [weights, data/raw/judge], outs: [metrics]}
  train: {cmd: 'true', deps: [rows, data/mine], outs: [weights]}
  encode: {cmd: 'true', deps: [data/raw/digits], outs: [rows]}
"""
MAKERS = """
stages:
  make_digits: {wdir: ../.., cmd: 'true', outs: [data/raw/digits, data/raw/judge]}
  make_unused: {wdir: ../.., cmd: 'true', outs: [data/raw/unused]}
  train: {wdir: ../.., cmd: 'true', outs: [data/raw/other]}
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("graph"), tmp_path_factory.mktemp("unused"))
    workspace.write("data/mine/one.txt", "1")
    workspace.run("dvc", "add", "-q", "data/mine")
    workspace.write("dvc.yaml", GRAPH)
    workspace.write("data/raw/dvc.yaml", MAKERS)
    return workspace.root


@pytest.fixture
def graph(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(repository)
    return repository


@pytest.mark.usefixtures("graph")
def test_stages_come_after_what_they_read_and_others_stay_out() -> None:
    stages = plan()
    order = [stage.addressing for stage in stages]
    assert sorted(order) == sorted(
        ["data/raw/dvc.yaml:make_digits", "data/mine.dvc", "encode", "train", "evaluate"]
    )
    for stage in stages:
        assert all(order.index(name) < order.index(stage.addressing) for name in stage.upstream)
    assert next(s for s in stages if s.name == "evaluate").upstream == (
        "data/raw/dvc.yaml:make_digits",
        "train",
    )


@pytest.mark.usefixtures("graph")
def test_a_stage_is_called_by_its_name_unless_two_share_it() -> None:
    assert {stage.name for stage in plan()} >= {"make_digits", "data/mine.dvc", "train"}
    both = plan(["train", "data/raw/dvc.yaml:train"])
    assert {stage.name for stage in both} >= {"train", "data/raw/dvc.yaml:train"}


@pytest.mark.usefixtures("graph")
def test_a_target_takes_its_upstream_along_and_nothing_else() -> None:
    assert [stage.name for stage in plan(["encode"])] == ["make_digits", "encode"]


@pytest.mark.usefixtures("graph")
def test_an_unknown_target_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'nothere' not found"):
        plan(["nothere"])


def test_another_folder_than_the_root_is_refused(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(graph / "data")
    with pytest.raises(ValueError, match="root folder"):
        plan()
