"""MLflow: one run a training, found again by its fingerprint, to which later stages add."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.artifacts import sha256_file
from stages.mlflow_store import (
    FINGERPRINT_TAG,
    experiment_id,
    first_line,
    open_client,
    say,
    search_run,
    start_monitor,
    store_errors,
    store_file,
    tolerated,
    tracking_uri,
)
from stages.params import document
from stages.params.tracking import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATASET_TAG = "diffbase.dataset_digest"
COMMIT_TAG = "mlflow.source.git.commit"
CHANGED_TAG = "diffbase.changed."  # + key: a parameter that was different when training resumed
PLACES = ("tracking.", "data.store", "data.cache_dir", "experiment.output_dir")  # no facts
MAX_PARAMS, MAX_ROWS = 100, 250  # a request: MLflow takes 100 parameters, 1000 metrics
MAX_PARAM_LENGTH = 6000  # MLflow cuts longer ones with a warning

Row = tuple[int, Mapping[str, float]]  # step and values


class Run:
    """What a stage may add to the run of its training; this one keeps nothing."""

    def log_rows(self, curve: str, newest_first: Iterable[Row]) -> None:
        """Log those rows of a growing curve that are not logged yet.

        Args:
            curve: One of the names in each row; the step it was logged at last, also before a
                restart, tells which rows are new.
            newest_first: All rows, of which only the new ones are looked at.
        """

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log results; each change of a value is a further step of its curve."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or what is in a folder, to the run's artifacts below `folder`."""


class MlflowRun(Run):
    """A run in MLflow. A store that fails for a while is warned about; curves catch up later."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self._last_steps: dict[str, int] = {}

    def log_rows(self, curve: str, newest_first: Iterable[Row]) -> None:
        """See `Run.log_rows`."""
        with tolerated(f"the curve {curve!r} will be caught up"):
            last = self._last_step(curve)
            fresh = list(takewhile(lambda row: row[0] > last, newest_first))[::-1]
            for start in range(0, len(fresh), MAX_ROWS):
                part = fresh[start : start + MAX_ROWS]
                self._log([(name, value, step) for step, of in part for name, value in of.items()])
                self._last_steps[curve] = part[-1][0]

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """See `Run.log_metrics`."""
        with tolerated(f"{sorted(metrics)} are not in MLflow"):
            known = self.client.get_run(self.run_id).data.metrics
            changed = [name for name, value in metrics.items() if known.get(name) != value]
            self._log([(name, metrics[name], self._last_step(name) + 1) for name in changed])
            self._last_steps.update({name: self._last_step(name) + 1 for name in changed})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """See `Run.log_artifact`."""
        with tolerated(f"{path} is not in MLflow"):
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), folder)
            else:
                self.client.log_artifact(self.run_id, str(path), folder)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log facts once; one that differs from what the run already says becomes a tag."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        new = [Param(name, value) for name, value in params.items() if name not in known]
        for start in range(0, len(new), MAX_PARAMS):
            self.client.log_batch(self.run_id, params=new[start : start + MAX_PARAMS])
        for name, value in params.items():
            if known.get(name, value) != value:
                self.client.set_tag(self.run_id, CHANGED_TAG + name, value)

    def log_dataset(self, source: Path, digest: str) -> None:
        """Name the dataset among the run's inputs."""
        from mlflow.entities import Dataset, DatasetInput

        place = json.dumps({"path": source.as_posix()})
        self.client.log_inputs(
            self.run_id, [DatasetInput(Dataset(source.stem, digest[:36], "local", place))]
        )

    def end(self, status: str) -> None:
        """Say how it ended: FINISHED, FAILED or KILLED."""
        with tolerated(f"run {self.run_id} stays RUNNING there, though it is {status}"):
            self.client.set_terminated(self.run_id, status)

    def _log(self, values: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value, step in values]
        self.client.log_batch(self.run_id, metrics=metrics)

    def _last_step(self, name: str) -> int:
        if name not in self._last_steps:
            history = self.client.get_metric_history(self.run_id, name)
            self._last_steps[name] = max((metric.step for metric in history), default=-1)
        return self._last_steps[name]


@contextmanager
def training_run(
    settings: Tracking,
    experiment: str,
    fingerprint: str,
    params_file: Path = Path("params.yaml"),
    images: Path = Path("data/images.parquet"),
) -> Iterator[Run]:
    """Open the run of a training: a new one, or the one that an earlier start of it made.

    A run that is FINISHED stays so and only gets what it lacks. Otherwise it ends FINISHED when
    the body returns, KILLED when it exits the process, and FAILED on any other error.

    Args:
        settings: The section `tracking`.
        experiment: MLflow's experiment, unless the settings name one.
        fingerprint: Of the training; a run with this tag is resumed.
        params_file: Its keys become the run's parameters.
        images: The dataset's table, whose digest is the dataset's.

    Raises:
        ValueError: The tracking store cannot be used.
    """
    if not settings.mlflow:
        yield Run()
        return
    uri, params, digest = tracking_uri(settings.uri), flat_params(params_file), sha256_file(images)
    try:
        run, is_finished = _start(uri, settings.experiment or experiment, fingerprint, digest)
        if not is_finished:
            run.log_params(params)
            run.log_dataset(images, digest)
    except store_errors() as error:
        raise ValueError(
            f"params.yaml: tracking.uri: {uri} cannot be used ({first_line(error)}): mend it, or "
            "set tracking.mlflow to false"
        ) from error
    if is_finished:
        yield run
        return
    monitor = start_monitor(run.run_id, uri) if settings.system_metrics else None
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        if monitor is not None:
            monitor.finish()
        run.end(status)


def find_run(settings: Tracking, fingerprint: str) -> Run:
    """Return the run of a training; where there is none, say so: nothing will be kept."""
    if not settings.mlflow:
        return Run()
    uri = tracking_uri(settings.uri)
    file = store_file(uri)
    if file is None or file.exists():
        with tolerated("nothing of this stage will be there"):
            client = open_client(uri)
            if (found := search_run(client, fingerprint)) is not None:
                return MlflowRun(client, found.info.run_id)
    say(f"{uri} has no run of training {fingerprint[:16]}: this stage adds nothing to MLflow")
    return Run()


def flat_params(path: Path) -> dict[str, str]:
    """Read a params.yaml as dotted keys; places and the tracking itself are no facts of a run."""
    tree = document.load(path)
    flat = {name: value for name, value in _flatten(tree, "") if not name.startswith(PLACES)}
    return {
        name: (value if isinstance(value, str) else json.dumps(value))[:MAX_PARAM_LENGTH]
        for name, value in flat.items()
    }


def _flatten(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _start(uri: str, experiment: str, fingerprint: str, dataset: str) -> tuple[MlflowRun, bool]:
    """Return the run, and whether it was FINISHED before; if not, it is RUNNING now."""
    client = open_client(uri)
    found = search_run(client, fingerprint)
    if found is not None and found.info.status == "FINISHED":
        return MlflowRun(client, found.info.run_id), True
    tags = {FINGERPRINT_TAG: fingerprint, DATASET_TAG: dataset, **_commit()}
    if found is None:
        name = f"{experiment}-{fingerprint[:8]}"
        found = client.create_run(experiment_id(client, experiment, uri), tags=tags, run_name=name)
    run = MlflowRun(client, found.info.run_id)
    client.update_run(run.run_id, status="RUNNING")
    for name, value in tags.items():
        client.set_tag(run.run_id, name, value)
    return run, False


def _commit() -> dict[str, str]:
    """Name the commit that is checked out; in a folder without one there is no tag."""
    command = ["git", "rev-parse", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return {} if answer.returncode else {COMMIT_TAG: answer.stdout.strip()}
