"""A workspace with pictures, captions and a base of a few thousand parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import toys
from tests.encode.workspaces import Workspace


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Ten pictures of two buckets, with captions, and a store of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFBASE_STORE", str(tmp_path / "store"))
    repository = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", str(repository))  # for stages started as children
    threads = torch.get_num_threads()
    toys.make_base(Path("data/base"), "flux2")
    space = Workspace(tmp_path)
    for seed in range(10):
        space.add_picture(seed)
    space.write()
    space.write_params()
    yield space
    torch.set_num_threads(threads)
