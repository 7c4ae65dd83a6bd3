"""Sample, evaluate and export add what they made to the run of the training."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow import MlflowClient

from stages import evaluate, sample
from stages.export import stage as export
from stages.params.outputs import Evaluate, Export, Prompt, Sample
from stages.params.tracking import Tracking
from stages.tracking import tracking_uri, training_run

TRACKING = Tracking(uri="sqlite:///mlflow.db", system_metrics=False)


def test_results_end_in_the_run_of_the_training(data: Path, judge_folder: Path) -> None:
    Path("params.yaml").write_text("experiment: {name: toy}\n")
    with training_run(TRACKING, "toy", "f" * 64):
        pass
    grid = Sample([Prompt("handwritten digits one", 16, 16)], steps=1)
    sample.run(sample.Params("toy", "flux2", "float32", grid, 1, TRACKING))
    asked = Evaluate("digits", str(judge_folder), 2, steps=1)
    params = evaluate.Params(
        name="toy",
        family="flux2",
        dtype="float32",
        evaluate=asked,
        steps=20,  # evaluate has its own
        cfg_scale=1.0,
        guidance=None,
        shift=None,
        sampler=None,
        keep_unmasked="pixels",
        threads=1,
        tracking=TRACKING,
    )
    evaluate.run(params)
    export.run(export.Params("flux2", "float32", Export(), "outputs/toy", 1, TRACKING))

    client = MlflowClient(tracking_uri(TRACKING.uri))
    home = client.get_experiment_by_name("toy")
    assert home is not None
    (found,) = client.search_runs([home.experiment_id])
    assert found.data.metrics == json.loads((data / "evaluate" / "metrics.json").read_text())
    artifacts = [
        a.path for f in ("sample", "evaluate") for a in client.list_artifacts(found.info.run_id, f)
    ]
    assert artifacts == ["sample/grid.png", "evaluate/grid.png"]
    birth = json.loads(Path("outputs/toy/birth.json").read_text())
    assert birth["mlflow_run_id"] == found.info.run_id
