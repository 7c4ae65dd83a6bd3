"""Draw the configured prompts with the trained model as one labelled grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages import launch
from stages.artifacts import read_json
from stages.control import check_conditions
from stages.generation import base_records, controlnet_of, generate, load_generator
from stages.params.outputs import Sample
from stages.params.read import key
from stages.params.tracking import Tracking
from stages.prompt_pictures import check_pictures
from stages.sample_grid import sampling_of, write_grid
from stages.tracking import find_run


@dataclass(frozen=True)
class Params:
    """What this stage reads of params.yaml."""

    name: str = key("experiment.name")
    family: str = key("model.type")
    dtype: str = key("model.dtype")
    sample: Sample = key("sample")
    threads: int = key("hardware.threads")
    tracking: Tracking = key("tracking", tracked=False)


@dataclass(frozen=True)
class Artifacts:
    """The trained model and the grid."""

    trained: Path = Path("data/train/weights")
    summary: Path = Path("data/train/summary.json")
    base: Path = Path("data/base")
    grid: Path = Path("data/sample/grid.png")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Write the grid and add it to the training's run.

    Raises:
        FileNotFoundError: A picture that a prompt names is not there.
        ValueError: A prompt asks for a size or an edit that the model cannot make.
    """
    folder = Path(params.sample.pictures or "")
    check_pictures(params.sample.prompts, folder, "sample.prompts")
    check_conditions(params.sample.prompts, folder, "sample.prompts")
    launch.use_threads(params.threads)
    records = base_records(artifacts.base)
    generator = load_generator(params.family, artifacts.trained, records, params.dtype)
    asked, summary = params.sample, read_json(artifacts.summary)
    sampling = sampling_of(asked, summary["time_offset"], controlnet_of(summary))
    pictures = generate(generator, asked.prompts, sampling, "sample.prompts", folder)
    write_grid(artifacts.grid, params.name, sampling, asked.prompts, pictures, folder)
    tracked = find_run(params.tracking, summary["fingerprint"])
    tracked.log_artifact(artifacts.grid, "sample")
    print(f"drew {len(pictures)} pictures: {artifacts.grid}", flush=True)  # noqa: T201


if __name__ == "__main__":
    launch.main("sample", run, Params)
