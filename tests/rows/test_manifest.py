"""Rows by sample id or caption, in memory or from the store."""

import lance
import numpy as np
import pyarrow as pa
import pytest

from stages.rows import manifest as manifest_module
from stages.rows.manifest import ManifestRows
from stages.rows.table import RowTable


@pytest.fixture(params=["in memory", "from the store"])
def rows(request, tmp_path, monkeypatch):
    """Samples a, b, c in one table (a and c share a row) and d in another."""
    if request.param == "from the store":
        monkeypatch.setattr(manifest_module, "PRELOAD_BYTES", 0)
    root = str(tmp_path)
    wide = RowTable.open(root, "latents-1x1x2", {"mean": (1, 1, 2)})
    wide.add(["k1", "k2"], {"mean": np.array([1, 1, 2, 2], np.float32).reshape(2, 1, 1, 2)})
    tall = RowTable.open(root, "latents-1x2x1", {"mean": (1, 2, 1)})
    tall.add(["k3"], {"mean": np.full((1, 1, 2, 1), 3, np.float32)})
    table = pa.table(
        {
            "sample_id": ["a", "b", "c", "d"],
            "key": ["k1", "k2", "k1", "k3"],
            "table": ["latents-1x1x2"] * 3 + ["latents-1x2x1"],
        }
    )
    return ManifestRows(table, "sample_id", root)


def test_rows_come_by_name_in_the_order_asked(rows):
    assert rows.take(["c", "b", "a", "b"])["mean"][:, 0, 0, 0].tolist() == [1, 2, 1, 2]
    assert rows.take(["d"])["mean"].shape == (1, 1, 2, 1)


def test_an_unknown_name_is_refused(rows):
    with pytest.raises(ValueError, match="sample_id 'e' is not in the manifest"):
        rows.take(["a", "e"])


def test_rows_of_two_shapes_at_once_are_refused(rows):
    with pytest.raises(ValueError, match="ask for one shape at a time"):
        rows.take(["a", "d"])


def test_the_versions_read_are_tagged(tmp_path, rows):
    tags = lance.dataset(str(tmp_path / "rows/latents-1x1x2.lance")).tags.list()
    assert [name.partition("-")[0] for name in tags] == ["manifest"]
