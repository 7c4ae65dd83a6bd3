"""The row table: rows once written stay, whoever writes, and come back in the order asked."""

import multiprocessing
import os
import signal
import time
from datetime import datetime, timezone
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch

from stages.rows import layout as layout_module
from stages.rows import table as table_module
from stages.rows.faults import DamagedError
from stages.rows.flat import FlatRows, NotFlatError
from stages.rows.layout import Column, columns_of
from stages.rows.table import RowTable

NAME = "latents-4x2"
COLUMNS = {"mean": (4, 2)}


def rows_for(keys):
    """Rows whose values name their key, so that a mix-up shows."""
    return {"mean": np.stack([np.full((4, 2), float(key[1:]), np.float32) for key in keys])}


def keys_of(numbers):
    return [f"k{number}" for number in numbers]


@pytest.fixture
def table(tmp_path):
    return RowTable.open(str(tmp_path), NAME, COLUMNS)


def test_an_empty_store_misses_everything_and_opening_writes_nothing(tmp_path, table):
    assert table.missing(["k1", "k2", "k1"]) == ["k1", "k2"]
    assert table.version == 0
    assert table.take([])["mean"].shape == (0, 4, 2)
    assert list(tmp_path.iterdir()) == []


def test_rows_come_back_in_the_order_asked_with_repeats(table):
    keys = keys_of(range(10))
    assert table.add(keys, rows_for(keys)) == 10
    asked = ["k7", "k0", "k7", "k3"]
    np.testing.assert_array_equal(table.take(asked)["mean"], rows_for(asked)["mean"])


def test_a_second_handle_sees_rows_added_after_it_opened(tmp_path, table):
    reader = RowTable.open(str(tmp_path), NAME)
    table.add(["k1"], rows_for(["k1"]))
    assert reader.columns == columns_of(COLUMNS)
    assert reader.take(["k1"])["mean"][0, 0, 0] == 1
    table.add(["k2"], rows_for(["k2"]))
    assert reader.take(["k2", "k1"])["mean"][:, 0, 0].tolist() == [2, 1]


def test_a_row_once_written_never_changes(table):
    table.add(["k1"], rows_for(["k1"]))
    assert table.add(["k1", "k2", "k2"], rows_for(["k9", "k2", "k8"])) == 1
    assert table.take(["k1", "k2"])["mean"][:, 0, 0].tolist() == [1, 2]


def test_bits_survive(table):
    values = np.random.default_rng(0).standard_normal((3, 4, 2)).astype(np.float32)
    table.add(keys_of(range(3)), {"mean": values})
    assert table.take(keys_of(range(3)))["mean"].tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": np.zeros((1, 2, 4), np.float32)}, r"was given float32 \(1, 2, 4\), expected"),
        ({"mean": np.zeros((1, 4, 2))}, "was given float64"),
        ({"std": np.zeros((1, 4, 2), np.float32)}, r"columns \['std'\] were given"),
        ({"mean": np.full((1, 4, 2), np.nan, np.float32)}, "1 of 1 rows hold values of 'mean'"),
    ],
)
def test_wrong_values_are_refused_and_nothing_is_written(table, values, message):
    with pytest.raises(ValueError, match=message):
        table.add(["k1"], values)
    assert table.version == 0


def test_missing_rows_say_how_many_and_what_to_run(table):
    table.add(["k1"], rows_for(["k1"]))
    with pytest.raises(ValueError, match=r"2 of 3 rows are missing .*stages.encode_images --fill"):
        table.take(["k1", "k2", "k3"])


def test_another_shape_under_the_same_name_is_refused(tmp_path, table):
    table.add(["k1"], rows_for(["k1"]))
    with pytest.raises(ValueError, match=r"but .* are asked for"):
        RowTable.open(str(tmp_path), NAME, {"mean": (2, 4)})


def test_stored_values_that_are_not_those_written_are_refused_when_read(tmp_path, table):
    table.add(["k1"], rows_for(["k1"]))
    schema = lance.dataset(table.uri).schema
    now = datetime.now(timezone.utc)
    bad = [{"key": "k2", "parts": "", "added": now, "checksum": 1, "mean": [float("nan")] * 8}]
    lance.write_dataset(pa.Table.from_pylist(bad, schema), table.uri, mode="append")
    with pytest.raises(DamagedError, match=r"1 of 2 rows hold other values .*check --mend"):
        table.take(["k1", "k2"])
    assert table.take(["k1"])["mean"][0, 0, 0] == 1


def test_rows_of_several_columns_come_back_whole(tmp_path):
    random = np.random.default_rng(0)
    columns = {"context": (77, 8), "pooled": (9,)}  # rows of 8-byte words, and of 4-byte words
    values = {
        name: random.standard_normal((20, *shape), dtype=np.float32)
        for name, shape in columns.items()
    }
    table = RowTable.open(str(tmp_path), NAME, columns)
    table.add(keys_of(range(20)), values)
    taken = table.take(keys_of(range(20)))
    assert {name: array.tobytes() for name, array in taken.items()} == {
        name: array.tobytes() for name, array in values.items()
    }


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_keep_the_encoders_precision_exactly(tmp_path, dtype):
    column = Column((4, 2), dtype)
    values = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    values[0, 0, 0] = -0.0
    exact = values.to(getattr(torch, dtype)).float().numpy()
    table = RowTable.open(str(tmp_path), f"latents-{dtype}", {"mean": column})
    table.add(keys_of(range(3)), {"mean": exact})
    assert table.take(keys_of(range(3)))["mean"].tobytes() == exact.tobytes()
    assert table.row_bytes == 8 * {"float32": 4}.get(dtype, 2)
    assert RowTable.open(str(tmp_path), f"latents-{dtype}").columns == {"mean": column}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_value_that_the_dtype_would_change_is_refused(tmp_path, dtype):
    table = RowTable.open(str(tmp_path), NAME, {"mean": Column((2,), dtype)})
    with pytest.raises(ValueError, match=rf"stored as {dtype}, but 1 of 2 values are not exact"):
        table.add(["k1"], {"mean": np.array([[0.5, 1e-30 + 0.1]], np.float32)})
    assert table.version == 0


@pytest.mark.parametrize("size", [3, 4, 768])
def test_pixels_are_a_byte_each_and_read_in_place(tmp_path, size):
    values = np.arange(2 * size, dtype=np.float32).reshape(2, size) % 256
    table = RowTable.open(str(tmp_path), NAME, {"pixels": Column((size,), "uint8")})
    table.add(["k1", "k2"], {"pixels": values})
    assert table.row_bytes == size
    assert FlatRows(lance.dataset(table.uri), table.columns, {})
    assert table.take(["k2", "k1"])["pixels"].tolist() == values[::-1].tolist()


@pytest.mark.parametrize("value", [0.5, -1, 256])
def test_a_value_that_is_no_pixel_is_refused(tmp_path, value):
    table = RowTable.open(str(tmp_path), NAME, {"pixels": Column((2,), "uint8")})
    with pytest.raises(ValueError, match="stored as uint8, but 1 of 2 values are not exact"):
        table.add(["k1"], {"pixels": np.array([[7, value]], np.float32)})
    assert table.version == 0


def test_a_dtype_that_has_no_form_is_refused():
    with pytest.raises(ValueError, match="'int8' cannot be stored: use one of"):
        Column((2,), "int8")


def test_rows_lie_flat_however_small_so_that_they_are_read_in_place(tmp_path):
    columns = {"context": (3, 5), "pooled": Column((1,), "bfloat16")}
    table = RowTable.open(str(tmp_path), NAME, columns)
    for key in ("k1", "k2"):
        table.add(
            [key],
            {"context": np.ones((1, 3, 5), np.float32), "pooled": np.ones((1, 1), np.float32)},
        )
    dataset = lance.dataset(table.uri)
    dataset.delete("key = 'k1'")
    dataset = lance.dataset(table.uri)
    rows = FlatRows(dataset, table.columns, {})
    (address,) = dataset.scanner(columns=["key"], with_row_address=True).to_table()["_rowaddr"]
    stored, _ = rows.read(np.array([address.as_py()]))
    assert stored["context"].tolist() == [[1.0] * 15]
    assert table.take(["k2"])["context"].shape == (1, 3, 5)


def test_rows_that_do_not_lie_flat_are_read_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(layout_module, "FLAT", {})
    columns = {"mean": Column((4, 2), "bfloat16")}
    table = RowTable.open(str(tmp_path), NAME, columns)
    keys = keys_of(range(10))
    table.add(keys, rows_for(keys))
    with pytest.raises(NotFlatError):
        FlatRows(lance.dataset(table.uri), table.columns, {})
    asked = ["k7", "k0", "k7", "k3"]
    np.testing.assert_array_equal(table.take(asked)["mean"], rows_for(asked)["mean"])


def test_many_small_appends_are_compacted_while_a_reader_keeps_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "MAX_SMALL_FRAGMENTS", 4)
    table = RowTable.open(str(tmp_path), NAME, COLUMNS)
    table.add(["k0"], rows_for(["k0"]))
    reader = RowTable.open(str(tmp_path), NAME)
    assert reader.missing(["k0"]) == []
    for key in keys_of(range(1, 12)):
        table.add([key], rows_for([key]))
        assert reader.take(["k0"])["mean"][0, 0, 0] == 0
    assert len(lance.dataset(table.uri).get_fragments()) <= 5
    keys = keys_of(range(11, -1, -1))
    np.testing.assert_array_equal(reader.take(keys)["mean"], rows_for(keys)["mean"])
    assert reader.keys() == keys_of(range(12))


def test_a_reader_survives_the_removal_of_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "MAX_SMALL_FRAGMENTS", 2)
    table = RowTable.open(str(tmp_path), NAME, COLUMNS)
    keys = keys_of(range(6))
    for key in keys[:2]:
        table.add([key], rows_for([key]))
    reader = RowTable.open(str(tmp_path), NAME)
    reader.require(keys[:2])
    for key in keys[2:]:
        table.add([key], rows_for([key]))
    lance.dataset(table.uri).cleanup_old_versions(retain_versions=1, delete_unverified=True)
    assert reader.take(["k1", "k0"])["mean"][:, 0, 0].tolist() == [1, 0]


def test_a_tag_names_the_version_that_was_read(tmp_path, table):
    table.add(["k1"], rows_for(["k1"]))
    table.tag("run")
    first = lance.dataset(table.uri).tags.list()["run"]["version"]
    table.add(["k2"], rows_for(["k2"]))
    table.tag("run")
    assert lance.dataset(table.uri).tags.list()["run"]["version"] == table.version > first


def test_a_table_that_is_empty_cannot_be_tagged(table):
    with pytest.raises(ValueError, match="no rows yet"):
        table.tag("run")


def test_a_forked_child_may_not_use_its_parents_table(table, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="not fork-safe"):
        table.missing(["k1"])


def write_alongside(root, seed, start):
    """One of several writers of the same 60 keys, in its own order, seven at a time."""
    table_module.MAX_SMALL_FRAGMENTS = 6  # so that compaction races as well
    table = RowTable.open(root, NAME, COLUMNS)
    keys = keys_of(np.random.default_rng(seed).permutation(60))
    start.wait()
    for first in range(0, len(keys), 7):
        batch = keys[first : first + 7]
        table.add(batch, rows_for(batch))
        np.testing.assert_array_equal(table.take(batch)["mean"], rows_for(batch)["mean"])


def test_racing_writers_create_one_table_and_write_each_row_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(3)
    writers = [
        spawn.Process(target=write_alongside, args=(str(tmp_path), seed, start))
        for seed in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    table = RowTable.open(str(tmp_path), NAME)
    stored = lance.dataset(table.uri).to_table(columns=["key"])["key"].to_pylist()
    assert sorted(stored) == sorted(keys_of(range(60)))
    np.testing.assert_array_equal(
        table.take(sorted(stored))["mean"], rows_for(sorted(stored))["mean"]
    )


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_table_that_appears_while_it_is_created_keeps_its_rows(tmp_path, monkeypatch, moment):
    write = table_module.write_fragments

    def write_and_be_overtaken(*args, **kwargs):
        monkeypatch.setattr(table_module, "write_fragments", write)
        begin = write(*args, **kwargs) if moment == "after" else None
        RowTable.open(str(tmp_path), NAME, COLUMNS).add(["k1"], rows_for(["k1"]))
        return begin or write(*args, **kwargs)

    table = RowTable.open(str(tmp_path), NAME, COLUMNS)
    monkeypatch.setattr(table_module, "write_fragments", write_and_be_overtaken)
    assert table.add(["k1", "k2"], rows_for(["k1", "k2"])) == 1
    assert table.keys() == ["k1", "k2"]


def write_for_ever(root, said):
    table = RowTable.open(root, NAME, COLUMNS)
    for number in range(10**6):
        batch = keys_of(range(8 * number, 8 * number + 8))
        table.add(batch, rows_for(batch))
        Path(said).write_text(str(number + 1))


def test_a_killed_writer_loses_one_batch_at_most(tmp_path):
    said = tmp_path / "said"
    spawn = multiprocessing.get_context("spawn")
    writer = spawn.Process(target=write_for_ever, args=(str(tmp_path), str(said)))
    writer.start()
    while not said.is_file() or int(said.read_text() or 0) < 10:
        assert writer.exitcode is None
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    table = RowTable.open(str(tmp_path), NAME)
    stored = table.keys()
    assert len(stored) % 8 == 0  # whole batches only
    assert len(stored) // 8 - int(said.read_text() or 0) in (0, 1)
    np.testing.assert_array_equal(table.take(stored)["mean"], rows_for(stored)["mean"])
    table.add(["k99999999"], rows_for(["k99999999"]))  # and the table goes on
