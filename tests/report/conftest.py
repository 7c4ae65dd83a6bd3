"""A dataset that looks like a person's own, and its report: made once, for all to read."""

from __future__ import annotations

import pytest

from tests.report.datasets import Reported, make_lifelike, report

SIZES = {
    "resolution": 512,
    "min_bucket_resolution": 256,
    "max_bucket_resolution": 1024,
    "validation_fraction": 0.1,
}


@pytest.fixture(scope="session")
def lifelike(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    folder = tmp_path_factory.mktemp("lifelike")
    root = make_lifelike(folder / "garden")
    return report(root, folder / "out", SIZES, max_unclean_fraction=0.5, trigger_word="photograph")
