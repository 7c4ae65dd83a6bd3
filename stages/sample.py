"""Draw the configured prompts with the trained model as one labelled grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages import launch
from stages.artifacts import read_json
from stages.contact_sheet import Cell, Section, write_sheet
from stages.control import check_conditions
from stages.generation import (
    Picture,
    Sampling,
    base_records,
    controlnet_of,
    generate,
    load_generator,
)
from stages.params.outputs import Prompt, Sample
from stages.params.read import key
from stages.params.tracking import Tracking
from stages.prompt_pictures import check_pictures
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
    asked = params.sample
    summary = read_json(artifacts.summary)
    sampling = Sampling(
        asked.steps,
        asked.cfg_scale,
        asked.seed,
        asked.guidance,
        asked.shift,
        asked.sampler,
        summary["time_offset"],
        controlnet_of(summary),
    )
    pictures = generate(generator, asked.prompts, sampling, "sample.prompts", folder)
    title = f"{params.name}: {asked.steps} steps, cfg {asked.cfg_scale:g}, seed {asked.seed}"
    write_sheet(artifacts.grid, title, sections(asked.prompts, pictures))
    tracked = find_run(params.tracking, summary["fingerprint"])
    tracked.log_artifact(artifacts.grid, "sample")
    print(f"drew {len(pictures)} pictures: {artifacts.grid}", flush=True)  # noqa: T201


def sections(prompts: Sequence[Prompt], pictures: Sequence[Picture]) -> list[Section]:
    """Group the pictures by size, sizes in the order of their first prompts."""
    by_size: dict[str, list[Cell]] = {}
    for prompt, picture in zip(prompts, pictures, strict=True):
        cell = Cell(picture, prompt.prompt or "(empty prompt)")
        by_size.setdefault(f"{prompt.width} x {prompt.height} pixels", []).append(cell)
    return [Section(heading, tuple(cells)) for heading, cells in by_size.items()]


if __name__ == "__main__":
    launch.main("sample", run, Params)
