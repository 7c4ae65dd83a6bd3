"""Measure the trained model: validation losses, and what a judge reads in held-out pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stages import launch
from stages.artifacts import read_json, write_csv, write_json
from stages.contact_sheet import Cell, Section, write_sheet
from stages.generation import (
    Generator,
    Picture,
    Sampling,
    base_records,
    controlnet_of,
    generate,
    load_generator,
    uncontrolled,
)
from stages.judges import JUDGES, Examination
from stages.judges.verdict import Question, Reading
from stages.kept_region import kept_errors, painted_errors
from stages.paired_gain import paired_gain
from stages.params.outputs import Evaluate
from stages.params.read import key
from stages.params.tracking import Tracking
from stages.tracking import find_run

SHEET_FACTOR = 2  # enlargement on the contact sheet, which holds many pictures
SHEET_CELLS = 200  # pictures on the contact sheet; the heading says so if there are more
JUDGED_HEADER = ("prompt", "position", "label", "read", "correct")
CONFUSION_HEADER = ("actual", "predicted")


@dataclass(frozen=True)
class Params:
    """What this stage reads of params.yaml."""

    name: str = key("experiment.name")
    family: str = key("model.type")
    dtype: str = key("model.dtype")
    evaluate: Evaluate = key("evaluate")
    steps: int = key("sample.steps")
    cfg_scale: float = key("sample.cfg_scale")
    guidance: float | None = key("sample.guidance")
    shift: float | None = key("sample.shift")
    sampler: str | None = key("sample.sampler")
    keep_unmasked: str = key("sample.keep_unmasked")
    threads: int = key("hardware.threads")
    tracking: Tracking = key("tracking", tracked=False)


@dataclass(frozen=True)
class Artifacts:
    """The trained model, and what is found out about it."""

    trained: Path = Path("data/train/weights")
    by_item: Path = Path("data/train/curves/val_loss_by_item.csv")
    summary: Path = Path("data/train/summary.json")
    base: Path = Path("data/base")
    metrics: Path = Path("data/evaluate/metrics.json")
    judged: Path = Path("data/evaluate/judged.csv")
    confusion: Path = Path("data/evaluate/confusion.csv")
    grid: Path = Path("data/evaluate/grid.png")


@dataclass(frozen=True)
class Judged:
    """Generated pictures and what the judge says of them."""

    questions: Sequence[Question]
    pictures: Sequence[Picture]
    readings: Sequence[Reading]
    metrics: dict[str, float]
    line: str  # for a person


NOTHING_JUDGED = Judged((), (), (), {}, "no judge (evaluate.judge is null)")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Write the metrics, the judge's readings and the contact sheet.

    Raises:
        ValueError: The judge cannot read real data well enough to be believed.
    """
    summary = read_json(artifacts.summary)
    judge = params.evaluate.judge
    judged = NOTHING_JUDGED
    if judge is not None:
        exam = JUDGES[judge].prepare(judge_folder(params.evaluate), params.evaluate.num_prompts)
        judged = examine(exam, params, artifacts)
    gain = paired_gain(artifacts.by_item)
    losses = {name: summary[name] for name in ("val_loss", "val_loss_base")}
    losses["val_gain"] = gain.mean
    if gain.low is not None:
        losses["val_gain_low"] = gain.low
    metrics = {name: rounded(value) for name, value in {**judged.metrics, **losses}.items()}
    write_readings(judged, artifacts)
    title = f"{params.name}: {judged.line}"
    write_sheet(artifacts.grid, title, sections(judged), SHEET_FACTOR)
    write_json(artifacts.metrics, metrics)
    tracked = find_run(params.tracking, summary["fingerprint"])
    tracked.log_metrics({k: v for k, v in metrics.items() if v is not None})
    tracked.log_artifact(artifacts.grid, "evaluate")
    print(judged.line, flush=True)  # noqa: T201


def judge_folder(evaluate: Evaluate) -> Path:
    """Give the judge's folder.

    Raises:
        ValueError: There is a judge but no folder.
    """
    if evaluate.judge_path is None:
        raise ValueError(
            f"evaluate.judge_path is null, but the judge {evaluate.judge!r} needs its folder of "
            "real data: set it, or set evaluate.judge to null"
        )
    return Path(evaluate.judge_path)


def examine(exam: Examination, params: Params, artifacts: Artifacts) -> Judged:
    """Generate a picture for each question and let the judge read it."""
    launch.use_threads(params.threads)
    records = base_records(artifacts.base)
    generator = load_generator(params.family, artifacts.trained, records, params.dtype)
    asked, summary = params.evaluate, read_json(artifacts.summary)
    sampling = Sampling(
        steps=params.steps if asked.steps is None else asked.steps,
        cfg_scale=params.cfg_scale if asked.cfg_scale is None else asked.cfg_scale,
        seed=asked.seed,
        guidance=params.guidance,
        shift=params.shift,
        sampler=params.sampler,
        keep_unmasked=params.keep_unmasked,
        time_offset=summary["time_offset"],
        controlnet=controlnet_of(summary),
    )
    folder = judge_folder(params.evaluate)
    pictures = generate(generator, exam.questions, sampling, "evaluate", folder)
    readings = exam.read(pictures)
    metrics = exam.metrics(readings) | kept_errors(generator, exam.questions, pictures, folder)
    metrics |= painted_errors(generator, exam.questions, sampling, folder)
    if generator.controlnet is not None or generator.sees_condition:
        alone = uncontrolled(generator, params.family, records)
        metrics |= without_control(alone, exam, sampling, metrics)
    return Judged(exam.questions, pictures, readings, metrics, exam.summary(metrics))


def without_control(
    alone: Generator, exam: Examination, sampling: Sampling, metrics: dict[str, float]
) -> dict[str, float]:
    """Measure what the base alone makes of the noise that a ControlNet has steered.

    Returns:
        Of the judge's first metric, the base's value and what control adds to it.
    """
    free = [replace(question, condition=None, condition_of=None) for question in exam.questions]
    found = exam.metrics(exam.read(generate(alone, free, sampling, "evaluate without control")))
    name, value = next(iter(found.items()))
    return {f"{name}_without_control": value, f"{name}_gain": metrics[name] - value}


def write_readings(judged: Judged, artifacts: Artifacts) -> None:
    """Write one row a reading, and the same as pairs for a confusion matrix."""
    readings = judged.readings
    rows = [
        (judged.questions[r.question].prompt, r.position, r.label, r.read, int(r.correct))
        for r in readings
    ]
    write_csv(artifacts.judged, JUDGED_HEADER, rows)
    digits = [(r.label, r.read) for r in readings if r.kind == "digit"]
    write_csv(artifacts.confusion, CONFUSION_HEADER, digits)


def sections(judged: Judged) -> list[Section]:
    """Group the pictures by size; what was read wrongly is framed and noted."""
    wrong: dict[int, list[Reading]] = defaultdict(list)
    for reading in judged.readings:
        if not reading.correct:
            wrong[reading.question].append(reading)
    by_size: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(judged.questions[:SHEET_CELLS]):
        by_size[f"{question.width} x {question.height} pixels"].append(index)
    cut = "" if len(judged.questions) <= SHEET_CELLS else f", of the first {SHEET_CELLS} prompts"
    return [
        Section(
            f"{size}: {sum(bool(wrong[i]) for i in indices)} of {len(indices)} read wrongly{cut}",
            tuple(_cell(judged, index, wrong[index]) for index in indices),
        )
        for size, indices in by_size.items()
    ]


def rounded(value: float | None) -> float | int | None:
    """Round to what means something in a report."""
    return round(value, 6) if isinstance(value, float) else value


def _cell(judged: Judged, index: int, wrong: Sequence[Reading]) -> Cell:
    note = "; ".join(f"{reading.label} read as {reading.read}" for reading in wrong)
    frames = tuple(reading.box for reading in wrong)
    return Cell(judged.pictures[index], judged.questions[index].prompt, note, frames)


if __name__ == "__main__":
    launch.main("evaluate", run, Params)
