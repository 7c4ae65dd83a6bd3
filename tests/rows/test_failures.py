"""Full disks and killed writers leave a whole table and, where possible, one sentence."""

import random
import shutil
import signal
import subprocess
import sys
import time

import lance
import numpy as np
import pytest

from stages.rows.table import RowTable

NAME = "latents-1000-float32"
FILL_THE_DISK = """
import sys, numpy as np
from stages.rows.table import RowTable

root, name, limit = sys.argv[1:]
table = RowTable.open(root, name, {"mean": (1000,)})
first = [f"k{key}" for key in range(50)]
table.add(first, {"mean": np.ones((50, 1000), np.float32)})
if limit == "file":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
num_batches = 1
try:
    for batch in range(1, 100):
        keys = [f"k{key}" for key in range(batch * 250, (batch + 1) * 250)]
        table.add(keys, {"mean": np.full((250, 1000), batch, np.float32)})
        num_batches += 1
except ValueError as error:
    print(error)
after = RowTable.open(root, name)
rows = after.take(after.keys())["mean"]
assert len(rows) == 50 + 250 * (num_batches - 1), (len(rows), num_batches)
assert (rows[:50] == 1).all()
print("whole", num_batches)
"""


def check_full(command):
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    sentence, whole = child.stdout.splitlines()
    assert f"{NAME}.lance: the disk is full, so the last batch of rows was not written" in sentence
    assert "run the same command again" in sentence
    assert whole.startswith("whole")


def can_mount():
    found = shutil.which("unshare")
    return found and not subprocess.run([found, "-rm", "true"], capture_output=True).returncode


def test_a_file_that_may_not_grow_is_one_sentence_and_a_whole_table(tmp_path):
    check_full([sys.executable, "-c", FILL_THE_DISK, str(tmp_path), NAME, "file"])


@pytest.mark.skipif(not can_mount(), reason="this user may not mount a small disk")
def test_a_full_disk_is_one_sentence_and_a_whole_table(tmp_path):
    (tmp_path / "fill.py").write_text(FILL_THE_DISK)
    (tmp_path / "disk").mkdir()
    inside = (
        'mount -t tmpfs -o size=8m small "$1/disk" && exec "$2" "$1/fill.py" "$1/disk" "$3" disk'
    )
    shell = ["sh", "-c", inside, "sh", str(tmp_path), sys.executable, NAME]
    check_full(["unshare", "-rm", *shell])


WRITE_FOR_EVER = """
import itertools, sys, numpy as np
from stages.rows import table as module
from stages.rows.table import RowTable

module.MAX_SMALL_FRAGMENTS = 3  # so that it is killed while it compacts, too
root, name, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
table = RowTable.open(root, name, {"mean": (1000,)})
print("ready", flush=True)
for batch in itertools.count(first):
    keys = range(batch * 8, batch * 8 + 8)
    values = np.stack([np.full(1000, key, np.float32) for key in keys])
    table.add([f"k{key}" for key in keys], {"mean": values})
    print(batch, flush=True)
"""


def test_writers_killed_at_random_moments_leave_whole_tables(tmp_path):
    moments, root, num_batches = random.Random(0), str(tmp_path), 0
    for _ in range(10):
        command = [sys.executable, "-c", WRITE_FOR_EVER, root, NAME, str(num_batches)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(moments.random() * 0.3)
            writer.send_signal(signal.SIGKILL)
            said = num_batches + len(writer.stdout.read().splitlines())
        table = RowTable.open(root, NAME)
        keys = table.keys()
        assert len(keys) == len(set(keys))
        if table.version:
            assert lance.dataset(table.uri).count_rows() == len(keys)
        num_batches = len(keys) // 8
        assert len(keys) % 8 == 0
        assert num_batches - said in (0, 1)  # what was said to be written is there
        for start in range(0, len(keys), 100):
            some = keys[start : start + 100]
            values = table.take(some)["mean"]
            assert (values == np.array([[float(key[1:])] for key in some])).all()
    assert num_batches > 10
