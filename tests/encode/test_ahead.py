"""Items are prepared ahead in order, by processes that end with the stage, however it ends."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from stages.encoding.ahead import ReadAhead, open_pool

OPENING = "import stages.bucketed_pictures, stages.encoding.workers, sys; print(*sys.modules)"


def slowly(number):
    """Take longer for earlier items."""
    time.sleep(0.2 if number == 0 else 0.0)
    return np.array([number])


def refuses_five(number):
    if number == 5:
        raise ValueError("pictures/5.png is no longer the picture that ingest read")
    return np.array([number])


def kills_its_process(number):
    os.kill(os.getpid(), signal.SIGKILL)


def leaves_a_mark(folder, number):
    Path(folder, str(number)).touch()
    return np.array([number])


@pytest.mark.parametrize("num_processes", [0, 1, 2])
def test_items_come_in_order_though_some_take_longer(num_processes):
    with open_pool(num_processes) as pool:
        inputs = ReadAhead(pool, slowly, list(range(10)))
        taken = [*inputs.take(2, 8), *inputs.take(8, 8)]
    assert [int(each[0]) for each in taken] == list(range(10))


@pytest.mark.parametrize("num_processes", [0, 2])
def test_an_error_comes_where_the_item_would_have(num_processes):
    with open_pool(num_processes) as pool:
        inputs = ReadAhead(pool, refuses_five, list(range(10)))
        assert len(inputs.take(5, 5)) == 5
        with pytest.raises(ValueError, match=r"^pictures/5.png is no longer the picture"):
            inputs.take(1, 5)


def test_a_killed_process_is_one_sentence():
    with open_pool(1) as pool, pytest.raises(ValueError, match=r"was killed, .*decode_workers"):
        ReadAhead(pool, kills_its_process, [1]).take(1, 1)


def gives_much(number):
    return np.zeros(30_000_000, np.uint8)


def test_a_process_killed_in_the_middle_of_a_large_result_is_noticed():
    """The results of one process do not pass through a pipe that others keep open."""
    with open_pool(2) as pool:
        inputs = ReadAhead(pool, gives_much, list(range(20)))
        inputs.take(2, 2)
        for worker in pool._workers:
            os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(ValueError, match="was killed"):
            inputs.take(18, 4)


def test_what_is_read_ahead_is_bounded(tmp_path):
    with open_pool(0) as pool:
        inputs = ReadAhead(pool, partial(leaves_a_mark, tmp_path), list(range(100)))
        inputs.take(4, 8)
        time.sleep(0.2)
        assert len(list(tmp_path.iterdir())) == 12
    assert len(list(tmp_path.iterdir())) == 12  # leaving drops the rest


def test_processes_that_open_pictures_import_neither_torch_nor_lance():
    answer = subprocess.run([sys.executable, "-c", OPENING], capture_output=True, text=True)
    assert not {"torch", "lance", "transformers"} & set(answer.stdout.split()), answer.stderr
    assert "PIL.Image" in answer.stdout


@pytest.fixture
def stage(workspace):
    """The stage as a process, once its workers have been started; it reads from a pipe for ever."""
    workspace.write_params(decode_workers=2)
    first = workspace.root / "pictures" / workspace.pictures[0]["path"]
    first.unlink()
    os.mkfifo(first)  # whoever opens it waits
    command = [sys.executable, "-m", "stages.encode_images"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(workers := decoders(process)) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    yield process, workers
    for each in [process, *workers]:
        if psutil.pid_exists(each.pid):
            os.kill(each.pid, signal.SIGKILL)
    process.wait()


def decoders(process):
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_a_killed_stage_leaves_no_process_behind(stage):
    process, workers = stage
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def test_a_killed_worker_ends_the_stage_with_one_sentence(stage):
    process, workers = stage
    os.kill(workers[0].pid, signal.SIGKILL)
    assert process.wait(timeout=60) == 1
    said = process.stderr.read()
    assert "encode_images: a process that opens pictures was killed" in said
    assert "Traceback" not in said
    assert not psutil.wait_procs(workers, timeout=20)[1]


def test_ctrl_c_leaves_no_process_behind(stage):
    process, workers = stage
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    while process.poll() is None:  # let the worker that waits for the pipe go on
        with suppress(OSError):  # nobody waits
            os.close(os.open("pictures/0.png", os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.05)
    said = process.stderr.read()
    assert process.returncode == 130, said
    assert not psutil.wait_procs(workers, timeout=20)[1]
    assert "Traceback" not in said
