"""MLflow's store: where it is, how it is opened, and how a training's run is found in it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.rows.location import EXPERIMENTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

FINGERPRINT_TAG = "diffbase.training_fingerprint"
SQLITE = "sqlite:///"


def tracking_uri(uri: str) -> str:
    """Put a relative SQLite file into the main repository, also from DVC's worktrees."""
    path = uri.removeprefix(SQLITE)
    if not uri.startswith(SQLITE) or path.startswith("/"):
        return uri
    repository = Path.cwd().as_posix().partition(f"{EXPERIMENTS}/")[0]
    return f"{SQLITE}{repository}/{path}"


def store_file(uri: str) -> Path | None:
    """Return the file of a SQLite store."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def open_client(uri: str) -> MlflowClient:
    """Connect; a SQLite file is opened by one process at a time, or its migrations collide."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"  # no chatter about migrations
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    from mlflow import MlflowClient

    path = store_file(uri)
    if path is None:
        return MlflowClient(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as file:  # MLflow would try for two minutes
        file.execute("pragma schema_version")
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return MlflowClient(uri)


def search_run(client: MlflowClient, fingerprint: str) -> Any:
    """Return the newest run of a training, in any experiment, because those may be renamed."""
    homes = [experiment.experiment_id for experiment in client.search_experiments()]
    wanted = f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'"
    return next(iter(client.search_runs(homes, wanted, max_results=1)), None)


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """Return the experiment `name`, made if it is not there."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    path = store_file(uri)  # else MLflow puts artifacts into the working folder of the moment
    place = None if path is None else (path.parent / "mlartifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def start_monitor(run_id: str, uri: str) -> SystemMetricsMonitor:
    """Log CPU, memory, disk, network and GPU use every ten seconds, until `finish()`."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
    monitor.start()
    return monitor


def store_errors() -> tuple[type[Exception], ...]:
    """Return what a store raises that is down, full or refuses a request."""
    from mlflow.exceptions import MlflowException

    return (MlflowException, sqlite3.Error, OSError)


@contextmanager
def tolerated(consequence: str) -> Iterator[None]:
    """Turn a failure of the store into a printed warning: it changes no result."""
    try:
        yield
    except store_errors() as error:
        say(f"warning: MLflow failed ({first_line(error)}): {consequence}")


def first_line(error: Exception) -> str:
    """Shorten an error that carries a page of advice."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(f"tracking: {text}", flush=True)  # noqa: T201
