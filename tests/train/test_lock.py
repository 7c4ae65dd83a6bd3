"""One trainer at a time: who is alive is waited for, who was left behind is ended."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from stages.train.lock import held, launcher

HOLD = """
import signal, sys, time
from pathlib import Path
from stages.train.lock import held, launcher

launcher()
def leave(number, frame):
    if sys.argv[2] == "obedient":
        Path(sys.argv[1] + ".saved").touch()
        sys.exit(143)
signal.signal(signal.SIGTERM, leave)
with held(Path(sys.argv[1]), "is training"):
    time.sleep(float(sys.argv[3]))
"""
LAUNCH = "import subprocess, sys; subprocess.run(['sh', '-c', sys.argv[1]])"


def start(lock, manner="obedient", seconds=60):
    """Start a holder as dvc does, launcher -> shell -> holder, and wait until it holds the lock."""
    command = f"{sys.executable} -c '{HOLD}' {lock} {manner} {seconds}; true"
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, command], env=environment)
    deadline = time.monotonic() + 30
    while not (lock.exists() and lock.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    owner = json.loads(lock.read_text())
    assert owner["launcher"]["pid"] == launcher.pid
    return launcher, owner["pid"]


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "a" / "lock"


def test_an_orphan_is_asked_to_save_and_its_lock_is_taken_over(lock, capsys):
    launcher, pid = start(lock)
    launcher.kill()
    launcher.wait()
    assert psutil.pid_exists(pid), "kill -9 of the launcher leaves the trainer alive"
    with held(lock, "is training"):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert lock.with_name("lock.saved").exists()
    said = capsys.readouterr().out
    assert f"process {pid} is training" in said
    assert f"(process {launcher.pid})" in said


def test_an_orphan_that_does_not_react_is_killed_after_the_grace_period(lock):
    launcher, _ = start(lock, "stubborn")
    launcher.kill()
    launcher.wait()
    began = time.monotonic()
    with held(lock, "is training", grace_seconds=0.5):
        assert 0.5 < time.monotonic() - began < 5
    assert not lock.with_name("lock.saved").exists()


def test_a_trainer_whose_launcher_lives_is_waited_for(lock, capsys):
    launcher, pid = start(lock, seconds=1)
    with held(lock, "is training"):
        assert launcher.wait(5) == 0
    assert not lock.with_name("lock.saved").exists(), "it was not disturbed"
    said = capsys.readouterr().out
    assert said.count("waiting for process") == 1
    assert f"waiting for process {pid}, which is training" in said


def test_a_trainer_becomes_an_orphan_while_it_is_waited_for(lock):
    launcher, _ = start(lock)
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {launcher.pid}"])
    with held(lock, "is training"):
        assert lock.with_name("lock.saved").exists()
    assert (killer.wait(), launcher.wait()) == (0, -signal.SIGKILL)


def test_a_killed_holder_leaves_no_lock(lock):
    launcher, pid = start(lock)
    os.kill(pid, signal.SIGKILL)
    launcher.wait()
    with held(lock, "is training"):
        pass


def test_the_launcher_is_the_nearest_ancestor_that_is_no_shell():
    code = "from stages.train.lock import launcher; print(launcher()['pid'])"
    command = f'{sys.executable} -c "{code}"; true'
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert int(answer.stdout) == os.getpid()
    assert launcher()["pid"] != os.getpid()
