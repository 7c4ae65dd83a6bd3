"""What encoding will take is said before, and what was encoded is kept, whoever is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.rows import location
from stages.rows.table import RowTable
from tests.encode.workspaces import LATENTS, encode_pictures

SLOW = """
import time
from tests.encode.workspaces import Recorder, encode_pictures
class Slow(Recorder):
    def encode_rows(self, images):
        time.sleep({seconds})
        rows = super().encode_rows(images)
        print("done", flush=True)
        return rows
encode_pictures(Slow())
"""


def test_rows_bytes_and_room_are_said_before_anything_is_encoded(workspace, capfd):
    encode_pictures()
    said = capfd.readouterr().err.splitlines()
    # 4 pictures of 16x8x16 and 6 of 16x8x8 values, 4 bytes each
    assert said[0].startswith("encode_images: 10 rows to encode, 0.1 MB in ")
    assert said[0].endswith(" GB free)")
    encode_pictures()
    assert "to encode" not in capfd.readouterr().err


def test_too_little_room_is_said_before_anything_is_encoded(workspace, monkeypatch):
    monkeypatch.setattr(location, "free_bytes", lambda root: 10)
    with pytest.raises(ValueError, match=r"encode_images: 10 rows need .* GB are free"):
        encode_pictures()
    assert not LATENTS.exists()


def test_a_killed_encoder_loses_one_batch_at_most(workspace):
    command = [sys.executable, "-c", SLOW.format(seconds=1)]
    encoder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for _ in range(3):  # the probe, and two batches
        assert encoder.stdout.readline() == "done\n"
    time.sleep(0.5)  # in the middle of the third
    os.kill(encoder.pid, signal.SIGKILL)
    encoder.wait()
    tables = [path.stem for path in Path("store/rows").glob("latents-*")]
    num_rows = sum(len(RowTable.open("store", name).keys()) for name in tables)
    assert num_rows in (4, 6)  # 4 or 2 first, as the tables come; the second batch has 4
    assert encode_pictures().reused == num_rows
