"""The child that fills the store ends with the stage that waits for it."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.encode.workspaces import encode_pictures

OPEN = """
from pathlib import Path
from stages.rows.manifest import open_latents
open_latents(Path("data/latents.parquet"), None)
"""


def test_a_killed_parent_leaves_no_orphan(workspace):
    encode_pictures()
    shutil.rmtree("store")
    parent = subprocess.Popen([sys.executable, "-c", OPEN], stderr=subprocess.PIPE, text=True)
    assert "10 rows are not in" in parent.stderr.readline()
    while not (children := psutil.Process(parent.pid).children()):
        assert parent.poll() is None
    os.kill(parent.pid, signal.SIGKILL)  # while the child is still importing torch
    parent.wait()
    psutil.wait_procs(children, timeout=60)
    assert not children[0].is_running()
    assert not Path("store/rows").exists()


def test_a_misspelt_option_is_refused(workspace):
    command = [sys.executable, "-m", "stages.encode_images", "--fil1"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "--fill" in answer.stderr
