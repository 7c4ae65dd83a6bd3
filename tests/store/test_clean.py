"""A clean-up removes what nobody uses, keeps the rest, and disturbs nobody."""

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from stages.rows import uses
from stages.rows.commits import committing
from stages.rows.table import RowTable
from stages.store.clean import clean, find_unused
from stages.store.tables import Place

NAME = "latents-1000-float32"
COLUMNS = {"mean": (1000,)}
NOW, LONG = timedelta(0), timedelta(days=30)


def rows_for(keys):
    return {"mean": np.stack([np.full(1000, int(key[1:]), np.float32) for key in keys])}


def keys_of(numbers):
    return [f"k{number}" for number in numbers]


def manifest(keys):
    return pa.table({"table": [NAME] * len(keys), "key": keys})


@pytest.fixture
def root(tmp_path):
    """Rows 0 to 39, of which a manifest in use names 0 to 9."""
    table = RowTable.open(str(tmp_path), NAME, COLUMNS)
    for start in range(0, 40, 10):
        keys = keys_of(range(start, start + 10))
        table.add(keys, rows_for(keys))
    uses.record(str(tmp_path), Path("data/latents.parquet"), manifest(keys_of(range(10))))
    return str(tmp_path)


def test_a_preview_names_what_would_go_and_changes_nothing(root):
    version = RowTable.open(root, NAME).version
    (unused,) = find_unused(root, {NAME: {"k10", "k11"}}, LONG, grace=NOW)
    assert (unused.num_rows, unused.num_bytes) == (28, 28 * 4000)
    assert unused.last_used is None
    assert RowTable.open(root, NAME).version == version


def test_rows_named_by_recent_manifests_and_by_this_workspace_stay(root):
    freed = clean(root, {NAME: {"k39"}}, LONG, grace=NOW)
    assert RowTable.open(root, NAME).keys() == [*keys_of(range(10)), "k39"]
    assert freed > 29 * 4000 * 0.9
    assert Place(root, NAME).num_bytes() < 11 * 4000 + 20000


def test_rows_of_a_manifest_that_was_not_used_lately_go_with_its_tag_and_record(root):
    RowTable.open(root, NAME).tag("manifest-0123")
    (unused,) = find_unused(root, {}, NOW, grace=NOW)
    assert unused.num_rows == 40
    assert unused.last_used is not None
    clean(root, {}, NOW, grace=NOW)
    assert RowTable.open(root, NAME).keys() == []
    assert lance.dataset(Place(root, NAME).uri).tags.list() == {}
    assert uses.read_uses(root) == []


def test_young_rows_stay_although_nobody_names_them_yet(root):
    assert find_unused(root, {}, NOW) == []
    clean(root, {}, NOW)
    assert len(RowTable.open(root, NAME).keys()) == 40


def test_a_reader_goes_on_with_its_rows(root):
    reader = RowTable.open(root, NAME)
    reader.tag("manifest-0123")
    before = reader.take(["k1", "k0"])["mean"]
    clean(root, {}, LONG, grace=NOW)
    np.testing.assert_array_equal(reader.take(["k1", "k0"])["mean"], before)
    np.testing.assert_array_equal(reader.take(["k39"])["mean"], rows_for(["k39"])["mean"])  # open
    assert RowTable.open(root, NAME).missing(["k39"]) == ["k39"]


def test_a_table_of_an_older_version_goes_whole(root):
    old = Place(root, "latents-2")
    lance.write_dataset(pa.table({"key": ["a"]}), old.uri)
    assert [(found.place, found.keys) for found in find_unused(root, {}, LONG)] == [(old, None)]
    clean(root, {}, LONG)
    assert not Path(old.uri).exists()


WRITER = """
import sys, numpy as np
from stages.rows.table import RowTable
table = RowTable.open(sys.argv[1], sys.argv[2])
for key in range(1000, 1020):
    table.add([f"k{key}"], {"mean": np.full((1, 1000), key, np.float32)})
"""


def test_an_encoder_that_adds_meanwhile_loses_nothing(root):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, root, NAME])
    named = {NAME: set(keys_of(range(1000, 1020)))}
    while writer.poll() is None:
        clean(root, named, LONG, grace=NOW)
    assert writer.returncode == 0
    assert sorted(RowTable.open(root, NAME).keys()) == sorted(
        keys_of([*range(10), *range(1000, 1020)])
    )


def test_no_version_is_removed_under_a_commit_that_is_being_made(root):
    table = RowTable.open(root, NAME)
    with ThreadPoolExecutor(1) as pool:
        with committing(table.uri):  # a slow writer: it has read a version and not yet committed
            cleaned = pool.submit(clean, root, {}, LONG, grace=NOW)
            while len(table.keys()) > 10:
                time.sleep(0.01)
            assert wait([cleaned], timeout=0.5).not_done
            versions = [each["version"] for each in lance.dataset(table.uri).versions()]
            assert len(versions) > 1
        cleaned.result()
    assert lance.dataset(table.uri).versions()[0]["version"] > versions[0]


CLEANER = """
import sys
from datetime import timedelta
from stages.store.clean import clean
print("ready", flush=True)
clean(sys.argv[1], {}, timedelta(days=30), timedelta(0))
"""


def test_a_clean_up_killed_at_any_moment_leaves_a_whole_table(root):
    kept, moments = keys_of(range(10)), random.Random(0)
    for start in range(100, 500, 100):
        table = RowTable.open(root, NAME)
        for first in range(start, start + 50, 10):
            keys = keys_of(range(first, first + 10))
            table.add(keys, rows_for(keys))
        cleaner = subprocess.Popen(
            [sys.executable, "-c", CLEANER, root], stdout=subprocess.PIPE, text=True
        )
        assert cleaner.stdout is not None
        cleaner.stdout.readline()
        time.sleep(moments.random() * 0.08)
        cleaner.send_signal(signal.SIGKILL)
        cleaner.communicate()
        fresh = RowTable.open(root, NAME)
        np.testing.assert_array_equal(fresh.take(kept)["mean"], rows_for(kept)["mean"])
        assert len(set(fresh.keys())) == lance.dataset(fresh.uri).count_rows()
    clean(root, {}, LONG, grace=NOW)
    assert RowTable.open(root, NAME).keys() == kept
