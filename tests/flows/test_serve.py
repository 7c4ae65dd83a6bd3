"""A schedule fires with nothing started by hand, and its run is cancelled with what serves it."""

from __future__ import annotations

import subprocess
import uuid

import pytest

from tests.flows.workspaces import TRAINER, Workspace, wait_until

pytestmark = pytest.mark.pipeline


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cron", "61 3 * *"], "--cron '61 3 * *' is not a cron that Prefect knows"),
        (["--cron", "0 3 * * *", "--timezone", "Mars"], "--timezone 'Mars' is not a timezone"),
        (["--cron", "0 3 * * *", "nothere"], "Stage 'nothere' not found inside 'dvc.yaml' file"),
    ],
)
def test_what_cannot_be_served_is_told_at_once(
    workspace: Workspace, arguments: list[str], complaint: str
) -> None:
    workspace.write("dvc.yaml", "stages: {}")
    code, output = workspace.run("flows.serve", *arguments)
    assert code == 1
    assert complaint in output
    assert len(output.splitlines()) == 1


TRAINING = "stages: {train: {cmd: python trainer.py, outs: [weights]}}"


@pytest.mark.timeout(180)
def test_a_one_minute_cron_sees_a_run_happen(workspace: Workspace) -> None:
    workspace.write("dvc.yaml", TRAINING)
    workspace.write("trainer.py", TRAINER)
    serving = workspace.start("flows.serve", "--cron", "* * * * *")
    workspace.wait_for("at_work", seconds=120)

    code, output = workspace.run("flows.serve", "--cron", "* * * * *")
    assert code == 1
    assert f"process {serving.pid} serves this repository already" in output

    serving.terminate()
    output, _ = serving.communicate(timeout=60)
    assert serving.returncode == 143, output
    assert (workspace.root / "checkpoint").exists()
    workspace.wait_until_left(seconds=0)
    assert workspace.task_runs() == [("train", "CANCELLED", "stopped by SIGTERM")]
    assert workspace.flow_runs()[-1] == ("CANCELLED", "stopped by SIGTERM; the next run resumes")


@pytest.mark.timeout(150)
def test_a_served_run_may_save_its_state_however_it_ends(served: Workspace) -> None:
    served.write("dvc.yaml", TRAINING)
    served.write("trainer.py", TRAINER)
    serving = served.start("flows.serve", "--cron", "0 0 1 1 *")
    name = first_line(serving).split("'")[1]

    run_now(served, name)
    (run_id, *_) = served.query("select id from flow_run order by start_time desc limit 1")[0]
    code, output = served.run("prefect", "flow-run", "cancel", str(uuid.UUID(run_id)))
    assert code == 0, output
    wait_until(lambda: served.flow_runs()[-1][0] == "CANCELLED", 60, "the run is not cancelled")
    assert (served.root / "checkpoint").exists()
    assert served.task_runs() == [("train", "CANCELLED", "stopped by SIGTERM")]

    (served.root / "checkpoint").unlink()
    (served.root / "at_work").unlink()
    run_now(served, name)
    serving.kill()
    serving.communicate(timeout=60)
    served.wait_until_left()
    assert (served.root / "checkpoint").exists()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def run_now(served: Workspace, name: str) -> None:
    code, output = served.run("prefect", "deployment", "run", f"reproduce/{name}")
    assert code == 0, output
    served.wait_for("at_work")
