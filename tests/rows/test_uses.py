"""The store knows which manifest used which rows, and when."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pytest

from stages.rows import uses


def manifest(*pairs):
    return pa.table({"table": [table for table, _ in pairs], "key": [key for _, key in pairs]})


ROWS = manifest(("latents-a", "k1"), ("latents-b", "k2"), ("latents-a", "k1"))


@pytest.fixture(params=["folder", "address"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "folder" else f"file://{tmp_path}"


def test_a_use_names_its_rows_its_time_and_its_counts(root):
    assert uses.read_uses(root) == []
    tag = uses.record(root, Path("data/latents.parquet"), ROWS, encoded=2, reused=1)
    (use,) = uses.read_uses(root)
    assert use.tag == tag
    assert use.keys == {"latents-a": ["k1"], "latents-b": ["k2"]}
    assert use.manifest.endswith("/data/latents.parquet")
    assert datetime.now(timezone.utc) - use.used < timedelta(minutes=1)
    assert (use.encoded, use.reused) == (2, 1)


def test_opening_keeps_the_counts_of_the_run_that_completed_it(root):
    uses.record(root, Path("a.parquet"), ROWS, encoded=2, reused=1)
    first = uses.read_uses(root)[0].used
    uses.record(root, Path("b.parquet"), ROWS)
    (use,) = uses.read_uses(root)
    assert (use.encoded, use.reused) == (2, 1)
    assert use.used > first


def test_equal_manifests_share_a_record_and_others_have_their_own(root):
    again = manifest(("latents-b", "k2"), ("latents-a", "k1"))
    assert uses.record(root, Path("a"), ROWS) == uses.record(root, Path("b"), again)
    other = uses.record(root, Path("c"), manifest(("latents-a", "k1")))
    assert next(use.tag for use in uses.read_uses(root)) == other
    uses.forget(root, [other, other])
    assert len(uses.read_uses(root)) == 1


def test_a_record_leaves_nothing_beside_itself(tmp_path):
    tag = uses.record(str(tmp_path), Path("a"), ROWS)
    assert [path.name for path in (tmp_path / "uses").iterdir()] == [f"{tag}.parquet"]
