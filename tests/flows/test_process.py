"""No process that a flow starts outlives it, and each may save its state before it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows.process import Supervised, Transcript
from tests.flows.workspaces import PROJECT, TRAINER, belongs, wait_until

DEAF = """
import signal, sys, time
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_IGN)
Path("at_work").touch()
time.sleep(120)
"""
# Like `dvc repro`: it ignores SIGINT while it waits for the stage.
PARENT = """
import signal, subprocess, sys

child = subprocess.Popen([sys.executable, "trainer.py"])
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.exit(child.wait() and 255)
"""
OWNER = """
import sys
from flows.process import Supervised

process = Supervised("it", [sys.executable, *sys.argv[1:]], grace_seconds=20)
for chunk in process.chunks():
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKSPACE", str(tmp_path))
    for name, text in {"trainer": TRAINER, "deaf": DEAF, "parent": PARENT, "owner": OWNER}.items():
        Path(f"{name}.py").write_text(text)
    yield tmp_path
    for process in others(tmp_path):
        process.kill()


def others(folder: Path) -> list[psutil.Process]:
    mine = os.getpid()
    return [p for p in psutil.process_iter() if p.pid != mine and belongs(p, str(folder))]


def supervised(*command: str, grace: float = 20) -> Supervised:
    return Supervised("it", [sys.executable, *command], grace_seconds=grace)


def at_work(name: str = "at_work") -> None:
    wait_until(Path(name).exists, 20, f"{name} was not written")


def all_gone(folder: Path, seconds: float = 20) -> None:
    wait_until(lambda: not others(folder), seconds, f"still there: {others(folder)}")


@pytest.mark.usefixtures("folder")
def test_output_and_exit_code_come_through() -> None:
    process = supervised(
        "-c", "import sys; print('one'); print('two', file=sys.stderr); sys.exit(7)"
    )
    assert sorted(b"".join(process.chunks()).split()) == [b"one", b"two"]
    assert process.wait() == 7


@pytest.mark.usefixtures("folder")
def test_a_command_ended_by_a_signal_reports_it_as_a_shell_does() -> None:
    process = supervised("-c", "import os; os.kill(os.getpid(), 9)")
    assert process.wait() == 137


def test_stop_asks_the_whole_group_with_sigint_first(folder: Path) -> None:
    process = supervised("parent.py")
    at_work()
    process.stop()
    assert b"saving" in b"".join(process.chunks())
    assert process.wait() == 255
    assert Path("checkpoint").read_text() == "step 7"
    assert not others(folder)


def test_who_does_not_listen_is_ended_after_the_grace_period(folder: Path) -> None:
    process = supervised("deaf.py", grace=0.5)
    at_work()
    began = time.monotonic()
    process.stop()
    assert process.wait() == 128 + signal.SIGTERM
    assert 0.5 <= time.monotonic() - began < 10
    assert not others(folder)


@pytest.mark.usefixtures("folder")
def test_hurry_skips_the_grace_period() -> None:
    process = supervised("deaf.py", grace=60)
    at_work()
    process.stop()
    time.sleep(0.3)  # two signals that are pending at once count as one
    process.hurry()
    began = time.monotonic()
    assert process.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - began < 10


def test_who_left_the_group_is_ended_with_it(folder: Path) -> None:
    Path("leaves.py").write_text(
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, 'deaf.py'], start_new_session=True)\n"
        "import trainer\n"
    )
    process = supervised("leaves.py")
    at_work()
    process.stop()
    process.wait()
    assert Path("checkpoint").exists()
    assert not others(folder)


def kill_owner(owner: subprocess.Popen[bytes]) -> None:
    owner.kill()


def kill_parent_alone(owner: subprocess.Popen[bytes]) -> None:
    (parent,) = [
        process
        for process in psutil.Process(owner.pid).children(recursive=True)
        if process.cmdline()[1:] == ["parent.py"]
    ]
    parent.kill()


@pytest.mark.parametrize("kill", [kill_owner, kill_parent_alone])
def test_kill_9_lets_the_stage_save_its_state_and_leaves_no_orphan(
    folder: Path, kill: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "owner.py", "parent.py"],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    at_work()
    kill(owner)
    owner.wait(timeout=20)
    all_gone(folder)
    assert Path("checkpoint").read_text() == "step 7"


@pytest.mark.usefixtures("folder")
def test_an_inherited_ignore_does_not_make_the_command_deaf() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for `command &`
    try:
        process = supervised("-c", "import signal; print(signal.getsignal(signal.SIGINT).__name__)")
    finally:
        signal.signal(signal.SIGINT, before)
    assert b"".join(process.chunks()).strip() == b"default_int_handler"
    assert process.wait() == 0


def test_a_transcript_keeps_both_ends_and_splits_progress_bars() -> None:
    transcript = Transcript(keep=2)
    for chunk in (b"first\nsec", b"ond\n 10%\r 90%\r", b"\nlast w\xc3\xb6rd"):
        transcript.add(chunk)
    transcript.close()
    assert transcript.first == ["first", "second"]
    assert list(transcript.last) == [" 90%", "last wörd"]
