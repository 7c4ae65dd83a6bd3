"""A toy base whose trainings are predicted."""

from __future__ import annotations

import pytest
import torch
from accelerate.state import AcceleratorState

from tests import toys


@pytest.fixture(autouse=True)
def settings_of_the_process():
    before = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)  # precision is a process's
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a toy base, in which params.yaml is written anew for each test."""
    root = tmp_path_factory.mktemp("forecast")
    toys.make_base(root / "data/base", "flux2")
    return root
