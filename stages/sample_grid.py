"""The grid of sample pictures: how the section `sample` is drawn, and laid out on a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from stages.conditions.making import Maker, maker_of
from stages.contact_sheet import Cell, Section, write_sheet
from stages.control import followed
from stages.generation import Picture, Sampling
from stages.params.methods import Controlnet
from stages.params.outputs import Prompt, Sample
from stages.pixels import open_rgb


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
    folder: Path,
) -> None:
    """Write the pictures with their prompts as a PNG whose bytes depend on the arguments alone.

    Before a picture stands what its prompt names in `folder`: references, mask, what is followed.
    """
    how = f"{sampling.steps} steps, cfg {sampling.cfg_scale:g}, seed {sampling.seed}"
    makes = any(prompt.condition_of is not None for prompt in prompts)
    maker = maker_of(sampling.controlnet or Controlnet()) if makes else None
    given = [named(prompt, folder, maker) for prompt in prompts]
    write_sheet(path, f"{name}: {how}", sections(prompts, pictures, given))


def sections(
    prompts: Sequence[Prompt], pictures: Sequence[Picture], given: Sequence[Sequence[Cell]]
) -> list[Section]:
    """Group the pictures by size, sizes in the order of their first prompts."""
    by_size: dict[str, list[Cell]] = {}
    for prompt, picture, before in zip(prompts, pictures, given, strict=True):
        cell = Cell(picture, prompt.prompt or "(empty prompt)")
        cells = by_size.setdefault(f"{prompt.width} x {prompt.height} pixels", [])
        cells += [*before, cell]
    return [Section(heading, tuple(cells)) for heading, cells in by_size.items()]


def named(prompt: Prompt, folder: Path, maker: Maker | None) -> list[Cell]:
    """Open what a prompt names, or make it of that, and say what it is."""
    size = (prompt.width, prompt.height)
    found = [
        (f"reference {number}", opened(folder / file))
        for number, file in enumerate(prompt.references, start=1)
    ]
    if prompt.mask is not None:
        found.append(("mask: white is filled", opened(folder / prompt.mask)))
    if prompt.condition is not None or prompt.condition_of is not None:
        found.append(("to follow", followed(prompt, folder, maker)))
    return [
        Cell(np.array(ImageOps.contain(image, size), dtype=np.uint8), label)
        for label, image in found
    ]


def opened(path: Path) -> Image.Image:
    """Open a picture that `generate` has read before."""
    return open_rgb(path.read_bytes()).image
