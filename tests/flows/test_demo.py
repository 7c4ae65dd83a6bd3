"""`make demo EXPERIMENT=name` runs in a worktree of its own, on what is committed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from stages.artifacts import read_json
from stages.params import document
from tests.flows.workspaces import PROJECT, Workspace

GRAPH = """
stages:
  evaluate:
    cmd: python evaluate.py
    params: [experiment.name]
    deps: [evaluate.py]
    outs: [data/evaluate/metrics.json]
"""
MAKERS = """
stages:
  make_digits:
    wdir: ../..
    cmd: 'true'
    outs: [data/raw/digits, data/raw/digits_base, data/raw/digits_judge]
"""
EVALUATE = """
from pathlib import Path
path = Path("data/evaluate/metrics.json")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text('{"digit_accuracy": %s}')
"""
IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@b"]


def git(workspace: Workspace, *arguments: str) -> str:
    command = ["git", *IDENTITY, *arguments]
    answer = subprocess.run(command, cwd=workspace.root, check=True, capture_output=True, text=True)
    return answer.stdout.strip()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A repository with every experiment, FLUX.2's the active one, and one quick stage."""
    workspace = Workspace(tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("unused"))
    shutil.copytree(PROJECT / "params", workspace.root / "params")
    shutil.copy(PROJECT / "params.yaml", workspace.root)
    workspace.write("dvc.yaml", GRAPH)
    workspace.write("data/raw/dvc.yaml", MAKERS)
    workspace.write("evaluate.py", EVALUATE % 0.875)
    workspace.write(".gitignore", "/demos/\n")
    workspace.write(".dvcignore", "demos\n")
    git(workspace, "add", "--all")
    git(workspace, "commit", "-qm", "a project")
    return workspace


@pytest.fixture(scope="module")
def first(workspace: Workspace) -> str:
    """What the first demo of SDXL said."""
    code, said = workspace.run("flows.demo", "digits_sdxl")
    assert code == 0, said
    return said


@pytest.fixture
def demo(workspace: Workspace, first: str) -> Path:
    return workspace.root / "demos" / "digits_sdxl"


def test_the_experiment_is_active_in_the_worktree_and_nowhere_else(
    workspace: Workspace, demo: Path
) -> None:
    assert document.load(demo / "params.yaml")["experiment"]["name"] == "digits_sdxl"
    assert document.load(demo / "params.yaml")["model"]["type"] == "sdxl"
    assert not git(workspace, "status", "--porcelain")
    assert not (workspace.root / "data/evaluate").exists()


def test_it_says_what_was_reached_and_where(first: str, demo: Path) -> None:
    assert "digit_accuracy         0.875" in first
    assert "in demos/digits_sdxl:" in first
    assert "uncommitted" not in first


def test_the_cache_is_the_projects_own(workspace: Workspace, demo: Path) -> None:
    (shared,) = (workspace.root / ".dvc/cache/files/md5").glob("*/*")
    assert shared.read_text() == '{"digit_accuracy": 0.875}'
    assert not (demo / ".dvc/cache").exists()


def test_an_unknown_experiment_is_one_sentence_and_makes_nothing(workspace: Workspace) -> None:
    code, said = workspace.run("flows.demo", "digits_sdx")
    assert code == 1
    assert said == (
        "demo: EXPERIMENT: there is no 'digits_sdx'; use one of "
        "['digits_flux1', 'digits_flux2', 'digits_sd35', 'digits_sdxl']\n"
    )
    assert not (workspace.root / "demos/digits_sdx").exists()


def test_a_later_demo_runs_the_last_commit_whatever_was_left_in_the_worktree(
    workspace: Workspace, demo: Path
) -> None:
    workspace.write("evaluate.py", EVALUATE % 0.5)
    git(workspace, "commit", "-qam", "a worse model")
    (demo / "evaluate.py").write_text("raise SystemExit('an edit in the worktree')")
    workspace.write("evaluate.py", EVALUATE % 0.25)
    try:
        code, said = workspace.run("flows.demo", "digits_sdxl")
    finally:
        git(workspace, "checkout", "-q", "evaluate.py")
    assert code == 0, said
    assert "uncommitted changes are left out" in said
    assert read_json(demo / "data/evaluate/metrics.json") == {"digit_accuracy": 0.5}
    assert (demo / "evaluate.py").read_text() == EVALUATE % 0.5


def test_a_worktree_that_was_deleted_is_made_again(workspace: Workspace, demo: Path) -> None:
    shutil.rmtree(demo)
    code, said = workspace.run("flows.demo", "digits_sdxl")
    assert code == 0, said
    assert (demo / "data/evaluate/metrics.json").is_file()
