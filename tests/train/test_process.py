"""`python -m stages.train` under a launcher that is killed: the whole story, with MLflow."""

import json
import os
import signal
import sys
import time
from dataclasses import replace

import pytest

from stages.mlflow_store import open_client
from stages.params.tracking import Tracking
from stages.train.stage import run

LAUNCH = (
    "import subprocess, sys; subprocess.run(['sh', '-c', sys.argv[1] + ' -m stages.train; true'])"
)


@pytest.mark.pipeline
def test_kill_9_of_the_launcher_alone_leaves_one_trainer_one_run_and_the_same_bytes(workspace):
    workspace.tree["tracking"] = {"uri": "sqlite:///mlflow.db", "system_metrics": False}
    workspace.params(steps=150, checkpoint={"every": 5, "keep": 2}, log_every=1)
    orphan = workspace.start(sys.executable, "-c", LAUNCH, sys.executable)
    deadline = time.monotonic() + 120
    while not any((workspace.store / "checkpoints").glob("*/step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    (lock,) = (workspace.store / "checkpoints").glob("writing-*.lock")
    trainer = json.loads(lock.read_text())["pid"]
    os.kill(trainer, signal.SIGSTOP)  # or it might end before it is asked to
    orphan.send_signal(signal.SIGKILL)
    orphan.wait()
    successor, said = workspace.start(), ""
    while "asking it to save and exit" not in said:
        line = successor.stdout.readline()
        assert line, said
        said += line
    os.kill(trainer, signal.SIGCONT)
    said += successor.stdout.read()
    assert successor.wait() == 0, said
    assert "going on after step" in said
    assert "stopped by SIGTERM" in orphan.stdout.read()
    resumed = {p: p.read_bytes() for p in workspace.output.rglob("*") if p.is_file()}

    client = open_client(f"sqlite:///{workspace.root}/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "toy")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    logged = client.get_metric_history(tracked.info.run_id, "loss")
    assert [metric.step for metric in logged] == list(range(1, 151))

    os.rename(workspace.store / "checkpoints", workspace.root / "forgotten")
    params = workspace.params(steps=150, checkpoint={"every": 5, "keep": 2}, log_every=1)
    run(replace(params, tracking=Tracking(mlflow=False)))
    assert resumed == {p: p.read_bytes() for p in workspace.output.rglob("*") if p.is_file()}
