"""Where the row store is, and whether it has room."""

import subprocess
import sys

import pytest

from stages.rows.location import require_space, store_root


@pytest.fixture(autouse=True)
def _no_store_in_the_environment(monkeypatch):
    monkeypatch.delenv("DIFFBASE_STORE", raising=False)


def test_the_environment_wins_over_the_parameter(monkeypatch, tmp_path):
    assert store_root(str(tmp_path / "given")) == str(tmp_path / "given")
    monkeypatch.setenv("DIFFBASE_STORE", str(tmp_path / "shared"))
    assert store_root(str(tmp_path / "given")) == str(tmp_path / "shared")


def test_an_address_stays_as_it_is():
    assert store_root("s3://bucket/rows/") == "s3://bucket/rows"


def test_a_relative_place_belongs_to_the_main_repository(monkeypatch, tmp_path):
    worktree = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1234"
    worktree.mkdir(parents=True)
    monkeypatch.chdir(worktree)
    assert store_root("store") == str(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    assert store_root("store") == str(tmp_path / "store")


def test_without_a_place_the_store_lies_beside_dvcs_cache(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no DVC repository: set data"):
        store_root(None)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    assert store_root(None) == str(tmp_path / ".dvc" / "diffbase")


def test_too_little_room_is_said_before_encoding(tmp_path):
    require_space(str(tmp_path / "not" / "there"), 10, "2 rows")
    require_space("s3://bucket", 10**18, "2 rows")
    with pytest.raises(ValueError, match="2 rows need 1000000000"):
        require_space(str(tmp_path), 10**18, "2 rows")
