"""The grid of sample pictures: how the section `sample` is drawn, and laid out on a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages.contact_sheet import Cell, Section, write_sheet
from stages.generation import Picture, Sampling
from stages.params.methods import Controlnet
from stages.params.outputs import Prompt, Sample


def sampling_of(
    asked: Sample, time_offset: float | None, controlnet: Controlnet | None
) -> Sampling:
    """Say how pictures are drawn.

    Args:
        asked: The section `sample`.
        time_offset: Of references along t; None: the model's own.
        controlnet: How one was trained, if one was.
    """
    return Sampling(
        asked.steps,
        asked.cfg_scale,
        asked.seed,
        asked.guidance,
        asked.shift,
        asked.sampler,
        time_offset,
        controlnet,
        asked.keep_unmasked,
    )


def write_grid(
    path: Path,
    name: str,
    sampling: Sampling,
    prompts: Sequence[Prompt],
    pictures: Sequence[Picture],
) -> None:
    """Write the pictures with their prompts as a PNG whose bytes depend on the arguments alone."""
    how = f"{sampling.steps} steps, cfg {sampling.cfg_scale:g}, seed {sampling.seed}"
    write_sheet(path, f"{name}: {how}", sections(prompts, pictures))


def sections(prompts: Sequence[Prompt], pictures: Sequence[Picture]) -> list[Section]:
    """Group the pictures by size, sizes in the order of their first prompts."""
    by_size: dict[str, list[Cell]] = {}
    for prompt, picture in zip(prompts, pictures, strict=True):
        cell = Cell(picture, prompt.prompt or "(empty prompt)")
        by_size.setdefault(f"{prompt.width} x {prompt.height} pixels", []).append(cell)
    return [Section(heading, tuple(cells)) for heading, cells in by_size.items()]
