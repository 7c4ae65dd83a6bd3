"""The flow does what `dvc repro` does, shows DVC's verdicts, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.flows.workspaces import TRAINER, Workspace

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(150)]

GRAPH = """
stages:
  last: {cmd: cat middle > last, deps: [middle], outs: [last]}
  middle: {cmd: cat first > middle && echo middle says hello, deps: [first], outs: [middle]}
  first: {cmd: cat raw/made > first, deps: [raw/made], outs: [first]}
"""
MAKER = "stages: {make: {wdir: .., cmd: echo 1 > raw/made, outs: [raw/made]}}"
TRAINING = """
stages:
  train: {cmd: python trainer.py, deps: [trainer.py], outs: [weights]}
  after: {cmd: cat weights > after, deps: [weights], outs: [after]}
"""


def reproduce(workspace: Workspace, *targets: str) -> tuple[int, str]:
    return workspace.run("flows.reproduce", *targets)


def last_line(output: str) -> str:
    return output.strip().splitlines()[-1]


def test_every_stage_is_a_task_run_with_dvcs_verdict(served: Workspace) -> None:
    served.write("dvc.yaml", GRAPH)
    served.write("raw/dvc.yaml", MAKER)
    code, output = reproduce(served)
    assert code == 0, output
    assert "middle says hello" in output
    names = ["make", "first", "middle", "last"]
    assert served.task_runs() == [(name, "COMPLETED", "ran") for name in names]
    assert served.flow_runs()[-1] == ("COMPLETED", "4 ran")

    (served.root / "middle").unlink()
    code, output = reproduce(served)
    assert code == 0, output
    said = ["cached", "cached", "restored", "cached"]
    assert [message for _, _, message in served.task_runs()] == said
    assert (served.root / "middle").read_text() == "1\n"


def test_a_failing_stage_fails_the_flow_with_its_last_line(served: Workspace) -> None:
    served.write(
        "dvc.yaml",
        """
        stages:
          bad: {cmd: echo "bad - no such data" >&2 && false, outs: [bad]}
          after: {cmd: cat bad > after, deps: [bad], outs: [after]}
        """,
    )
    code, output = reproduce(served)
    assert code == 1
    assert last_line(output) == "flows: stage 'bad' failed: bad - no such data"
    assert "Traceback" not in output
    assert served.task_runs() == [("bad", "FAILED", "bad - no such data")]
    assert served.flow_runs()[-1] == ("FAILED", "stage 'bad' failed: bad - no such data")


def test_a_repository_in_use_is_left_alone(served: Workspace) -> None:
    served.write("dvc.yaml", "stages: {slow: {cmd: touch at_work; sleep 60, outs: [slow]}}")
    other = served.start("dvc", "repro")
    served.wait_for("at_work")
    code, output = reproduce(served)
    assert code == 1
    assert "another DVC process is at work" in last_line(output)
    os.killpg(other.pid, signal.SIGKILL)


def test_a_graph_that_cannot_be_read_is_one_sentence(workspace: Workspace) -> None:
    workspace.write("dvc.yaml", GRAPH)
    code, output = reproduce(workspace, "nothere")
    assert (code, output) == (1, "flows: Stage 'nothere' not found inside 'dvc.yaml' file\n")


def test_a_server_that_does_not_answer_is_one_sentence(workspace: Workspace) -> None:
    workspace.write("dvc.yaml", GRAPH)
    workspace.env["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    code, output = reproduce(workspace)
    assert code == 1
    assert output == (
        "flows: PREFECT_API_URL 'http://127.0.0.1:9/api' does not answer: correct or unset it\n"
    )


@pytest.fixture
def training(workspace: Workspace) -> Workspace:
    workspace.write("dvc.yaml", TRAINING)
    workspace.write("trainer.py", TRAINER)
    return workspace


def begin(training: Workspace) -> subprocess.Popen[str]:
    flow = training.start("flows.reproduce", "--grace", "30")
    training.wait_for("at_work")
    return flow


def assert_resumes(training: Workspace) -> None:
    code, output = reproduce(training)
    assert code == 0, output
    assert "resumed" in output
    assert [name for name, _, message in training.task_runs() if message == "ran"] == [
        "train",
        "after",
    ]
    assert (training.root / "weights").read_text() == "the same weights"
    training.wait_until_left(seconds=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_cancels_the_flow(
    training: Workspace, server_url: str, number: signal.Signals
) -> None:
    if number == signal.SIGTERM:  # the other one starts a server, which Ctrl-C must not take away
        training.env["PREFECT_API_URL"] = server_url
    flow = begin(training)
    os.killpg(flow.pid, number)  # what a terminal does, or a service manager
    output, _ = flow.communicate(timeout=60)
    assert flow.returncode == 128 + number
    assert last_line(output) == f"flows: stopped by {number.name}; the next run resumes"
    training.wait_until_left(seconds=0)
    assert (training.root / "checkpoint").exists()
    assert training.task_runs() == [("train", "CANCELLED", f"stopped by {number.name}")]
    assert training.flow_runs()[-1][0] == "CANCELLED"
    training.env["PREFECT_API_URL"] = server_url
    assert_resumes(training)


def test_kill_9_of_the_flow_saves_the_state_too(training: Workspace, server_url: str) -> None:
    flow = begin(training)
    flow.kill()
    flow.communicate(timeout=60)
    training.wait_until_left()
    assert (training.root / "checkpoint").exists()
    training.env["PREFECT_API_URL"] = server_url
    assert_resumes(training)
