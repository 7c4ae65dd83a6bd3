"""One run a training: found again, never told a step twice, and ended as it ended."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stages.mlflow_store import open_client, tracking_uri
from stages.tracking import Run, find_run, flat_params, training_run

FINGERPRINT = "f" * 64


def client(settings):
    return open_client(tracking_uri(settings.uri))


def runs(settings):
    of = client(settings)
    return of.search_runs([experiment.experiment_id for experiment in of.search_experiments()])


def curve(settings, name):
    (run,) = runs(settings)
    return [(m.step, m.value) for m in client(settings).get_metric_history(run.info.run_id, name)]


def rows(steps):
    return [(step, {"loss": step / 10, "lr": 0.1}) for step in reversed(steps)]


def test_a_run_says_what_it_was_made_from(settings):
    subprocess.run(["git", "init", "-q"], check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    with training_run(settings, "toy", FINGERPRINT):
        pass
    (run,) = runs(settings)
    digest = hashlib.sha256(Path("data/images.parquet").read_bytes()).hexdigest()
    assert run.data.tags["diffbase.training_fingerprint"] == FINGERPRINT
    assert run.data.tags["diffbase.dataset_digest"] == digest
    assert run.data.tags["mlflow.source.git.commit"] == commit
    assert run.data.params == {
        "experiment.name": "toy",
        "experiment.seed": "1",
        "training.steps": "20",
        "training.objective.shift": "1.0",
        "training.objective.type": "flow_matching",
        "training.ema": "null",
        "data.train_path": "data/raw/toy",
        "sample.prompts": '[{"prompt": "seven", "width": 32}]',
    }
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("images", digest[:36])
    assert run.info.status == "FINISHED"
    assert client(settings).get_experiment(run.info.experiment_id).name == "toy"


@pytest.mark.parametrize(
    ("error", "status"),
    [(SystemExit(143), "KILLED"), (KeyboardInterrupt(), "KILLED"), (ValueError("x"), "FAILED")],
)
def test_a_run_ends_as_the_training_ended(settings, error, status):
    def fail():
        with training_run(settings, "toy", FINGERPRINT):
            raise error

    with pytest.raises(type(error)):
        fail()
    (run,) = runs(settings)
    assert run.info.status == status


def test_a_resumed_training_resumes_its_run_and_no_step_is_logged_twice(settings):
    def stopped():
        with training_run(settings, "toy", FINGERPRINT) as run:
            run.log_rows("loss", rows(range(10, 40, 10)))
            run.log_rows("loss", rows(range(10, 50, 10)))
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        stopped()
    with training_run(settings, "toy", FINGERPRINT) as run:  # its checkpoint was of step 20
        run.log_rows("loss", rows(range(10, 40, 10)))
        run.log_rows("loss", rows(range(10, 70, 10)))
    assert curve(settings, "loss") == [(step, step / 10) for step in range(10, 70, 10)]
    assert [step for step, _ in curve(settings, "lr")] == list(range(10, 70, 10))
    (run,) = runs(settings)
    assert run.info.status == "FINISHED"


def test_a_run_that_was_killed_outright_is_resumed_too(settings):
    code = (
        "import os, sys; from stages.tracking import training_run;"
        "from stages.params.tracking import Tracking;"
        f"run = training_run(Tracking(system_metrics=False), 'toy', '{FINGERPRINT}');"
        "run.__enter__().log_rows('loss', [(10, {'loss': 1.0})]); os.kill(os.getpid(), 9)"
    )
    repository = str(Path(__file__).parents[2])
    killed = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": repository}
    )
    assert killed.returncode == -9
    (run,) = runs(settings)
    assert run.info.status == "RUNNING"
    with training_run(settings, "toy", FINGERPRINT) as run:
        run.log_rows("loss", [(20, {"loss": 0.5}), (10, {"loss": 1.0})])
    assert curve(settings, "loss") == [(10, 1.0), (20, 0.5)]


def test_a_finished_training_started_again_makes_no_second_run(settings):
    with training_run(settings, "toy", FINGERPRINT) as run:
        run.log_rows("loss", rows([10]))
    (before,) = runs(settings)
    with training_run(settings, "renamed", FINGERPRINT) as run:
        run.log_rows("loss", rows([10]))
    (after,) = runs(settings)
    assert after.info.end_time == before.info.end_time
    assert curve(settings, "loss") == [(10, 1.0)]
    with training_run(settings, "toy", "e" * 64):
        pass
    assert len(runs(settings)) == 2


def test_a_parameter_that_changed_in_between_is_a_tag(settings):
    with pytest.raises(SystemExit), training_run(settings, "toy", FINGERPRINT):
        raise SystemExit(130)
    Path("params.yaml").write_text("sample: {steps: 5}\nexperiment: {seed: 1, name: new}\n")
    with training_run(settings, "toy", FINGERPRINT):
        pass
    (run,) = runs(settings)
    assert run.data.params["experiment.name"] == "toy"
    assert run.data.params["sample.steps"] == "5"
    changed = {name: value for name, value in run.data.tags.items() if "changed" in name}
    assert changed == {"diffbase.changed.experiment.name": "new"}


def test_later_stages_add_to_the_run(settings, capsys):
    with training_run(settings, "toy", FINGERPRINT):
        pass
    Path("grid.png").write_bytes(b"picture")
    for accuracy in [0.5, 0.5, 0.75]:
        run = find_run(settings, FINGERPRINT)
        run.log_metrics({"digit_accuracy": accuracy, "digits_judged": 300})
        run.log_artifact(Path("grid.png"), "sample")
    assert curve(settings, "digit_accuracy") == [(0, 0.5), (1, 0.75)]
    assert curve(settings, "digits_judged") == [(0, 300.0)]
    (found,) = runs(settings)
    assert [f.path for f in client(settings).list_artifacts(found.info.run_id, "sample")] == [
        "sample/grid.png"
    ]
    assert found.info.status == "FINISHED"
    assert capsys.readouterr().out == ""
    assert (Path("mlartifacts") / "toy").is_dir()


def test_without_a_run_or_with_tracking_off_nothing_breaks(settings, capsys):
    assert type(find_run(settings, FINGERPRINT)) is Run
    assert capsys.readouterr().out.count("\n") == 1
    Path("mlflow.db").unlink()
    assert type(find_run(settings, FINGERPRINT)) is Run
    assert not Path("mlflow.db").exists()
    assert capsys.readouterr().out.count("\n") == 1
    off = replace(settings, mlflow=False)
    with training_run(off, "toy", FINGERPRINT) as run:
        run.log_rows("loss", rows([10]))
        run.log_metrics({"loss": 1.0})
        run.log_artifact(Path("nowhere"))
    find_run(off, FINGERPRINT).log_metrics({"loss": 1.0})
    assert not Path("mlflow.db").exists()
    assert capsys.readouterr().out == ""


def test_the_store_of_an_experiment_in_a_worktree_is_that_of_the_repository(settings, monkeypatch):
    here = Path.cwd()
    worktree = here / ".dvc/tmp/exps/tmpabc"
    worktree.mkdir(parents=True)
    monkeypatch.chdir(worktree)
    assert tracking_uri("sqlite:///mlflow.db") == f"sqlite:///{here}/mlflow.db"
    assert tracking_uri("sqlite:////elsewhere/a.db") == "sqlite:////elsewhere/a.db"
    assert tracking_uri("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


def test_a_store_that_cannot_be_used_is_one_sentence_before_training(settings):
    Path("folder.db").mkdir()
    with (
        pytest.raises(ValueError, match=r"tracking\.uri: .*folder\.db cannot be used"),
        training_run(replace(settings, uri="sqlite:///folder.db"), "toy", FINGERPRINT),
    ):
        pass


def test_a_store_that_fails_in_between_is_caught_up_with(settings, monkeypatch, capsys):
    from mlflow.exceptions import MlflowException

    with training_run(settings, "toy", FINGERPRINT) as run:
        works = run.client.log_batch

        def fails(*args, **kwargs):
            raise MlflowException("no connection\nand a page of advice")

        run.log_rows("loss", rows([10]))
        monkeypatch.setattr(run.client, "log_batch", fails)
        run.log_rows("loss", rows([10, 20]))
        monkeypatch.setattr(run.client, "log_batch", works)
        run.log_rows("loss", rows([10, 20, 30]))
    assert [step for step, _ in curve(settings, "loss")] == [10, 20, 30]
    said = capsys.readouterr().out
    assert said == (
        "tracking: warning: MLflow failed (no connection): the curve 'loss' will be caught up\n"
    )


def test_system_metrics_are_logged_and_opening_the_store_says_nothing(settings, tmp_path):
    """In a process of its own, as a stage is: other tests set up logging for all of this one."""
    code = (
        "import time; from stages.params.tracking import Tracking; "
        "from stages.tracking import training_run; "
        f"run = training_run({replace(settings, system_metrics=True)!r}, 'toy', {FINGERPRINT!r}); "
        "run.__enter__(); time.sleep(0.5); run.__exit__(None, None, None)"
    )
    environment = {
        **os.environ,
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (child.stdout, child.stderr) == ("", "")
    (run,) = runs(settings)
    assert run.info.status == "FINISHED"
    assert "system/cpu_utilization_percentage" in run.data.metrics


def test_a_thousand_rows_and_more_are_logged_in_parts(settings):
    with training_run(settings, "toy", FINGERPRINT) as run:
        run.log_rows("loss", rows(range(1, 602)))
    assert len(curve(settings, "loss")) == 601


def test_places_are_no_facts(settings):
    names = flat_params(Path("params.yaml"))
    assert not {"data.store", "experiment.output_dir", "tracking.mlflow"} & names.keys()
