"""A damaged file is one sentence, and mending it costs the rows that it held."""

import os
from pathlib import Path

import lance
import numpy as np
import pytest

from stages.rows.faults import DamagedError
from stages.rows.table import RowTable
from stages.store.check import check, mend

NAME = "latents-1000-bfloat16"


@pytest.fixture
def table(tmp_path):
    """Two data files of five rows each."""
    from stages.rows.layout import Column

    table = RowTable.open(str(tmp_path), NAME, {"mean": Column((1000,), "bfloat16")})
    for start in (0, 5):
        values = np.arange(start, start + 5, dtype=np.float32)[:, None].repeat(1000, 1)
        table.add([f"k{key}" for key in range(start, start + 5)], {"mean": values})
    return table


def first_file(table):
    name = lance.dataset(table.uri).get_fragments()[0].data_files()[0].path
    return Path(table.uri) / "data" / name


def flip_a_value(path):
    with path.open("r+b") as file:
        file.seek(2500)  # in row 1
        file.write(b"\x12\x34")


DAMAGES = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "changed": flip_a_value,
}


def test_a_whole_store_is_whole(tmp_path, table):
    (found,) = check(str(tmp_path))
    assert found.is_whole
    assert found.num_rows == 10


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("reader", ["new", "open"])
def test_damage_is_one_sentence_that_names_the_table_and_the_remedy(tmp_path, table, how, reader):
    keys = [f"k{key}" for key in range(10)]
    if reader == "open":
        table.require(keys)
    DAMAGES[how](first_file(table))
    if reader == "new":
        table = RowTable.open(str(tmp_path), NAME)
    with pytest.raises(
        DamagedError, match=rf"{NAME}.lance cannot be read \(.*check --mend"
    ) as told:
        table.take(keys)
    assert "\n" not in str(told.value)
    assert "rust" not in str(told.value)


@pytest.mark.parametrize(("how", "left"), [("half", 5), ("empty", 5), ("gone", 5), ("changed", 9)])
def test_mending_removes_the_damaged_rows_only(tmp_path, table, how, left):
    DAMAGES[how](first_file(table))
    (found,) = check(str(tmp_path))
    assert not found.is_whole
    mend(found)
    (again,) = check(str(tmp_path))
    assert again.is_whole
    keys = RowTable.open(str(tmp_path), NAME).keys()
    assert len(keys) == left
    assert RowTable.open(str(tmp_path), NAME).take(keys)["mean"][-1, 0] == 9
    fresh = RowTable.open(str(tmp_path), NAME)
    fresh.add(["k1"], {"mean": np.ones((1, 1000), np.float32)})
    assert fresh.take(["k1"])["mean"][0, 0] == 1


def test_a_table_that_does_not_open_is_removed(tmp_path, table):
    for version in (Path(table.uri) / "_versions").iterdir():
        os.truncate(version, 10)
    (found,) = check(str(tmp_path))
    assert found.is_unreadable
    mend(found)
    assert check(str(tmp_path)) == []
