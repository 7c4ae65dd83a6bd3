"""Make the pictures that are missing; each depends on its place and on the parts of the key."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from modelzoo.families import family
from modelzoo.process.defaults import DEFAULTS, SamplingDefaults
from stages import launch
from stages.generate_class_images import kept
from stages.generate_class_images.stage import Params
from stages.generation import Sampling, base_records, generate, load_generator
from stages.params.methods import ClassImages, Dreambooth
from stages.params.outputs import Prompt
from stages.randomness import generator
from stages.rows.location import store_root
from stages.wildcards import choose

CONVENTION = 1  # of how a picture follows from the parts of its key; a change makes all anew
NAME = "training.dreambooth.class_images"
UNKNOWN = SamplingDefaults(20, cfg_scale=4.0)  # of a checkpoint that is none of the released


class Complete(NamedTuple):
    """All pictures that are asked for."""

    paths: list[Path]
    prompts: list[str]
    num_made: int  # now; the others were there


class Settled(NamedTuple):
    """`ClassImages` with nothing left open but what the model itself says."""

    seed: int
    steps: int
    cfg_scale: float
    guidance: float | None
    shift: float | None
    sampler: str | None
    width: int
    height: int


def complete(asked: Params, settings: Dreambooth, base: Path) -> Complete:
    """Make the pictures that are not kept yet, and return them all.

    Raises:
        ValueError: The base cannot make pictures of this size.
    """
    launch.use_threads(asked.threads)
    records = base_records(base)
    images, template = settled(settings.class_images, asked), settings.class_prompt
    parts = {
        "convention": CONVENTION,
        "base": {name: record.digest for name, record in records.items()},
        "prompt": template,
        **images._asdict(),
        **{"dtype": asked.dtype, "threads": asked.threads},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__.partition("+")[0],
    }
    folder = kept.folder_of(store_root(asked.store), parts)
    kept.prepare(folder, parts)
    paths = [folder / kept.picture_name(i) for i in range(settings.num_class_images)]
    prompts = [prompt_of(template, images.seed, i) for i in range(len(paths))]
    sampling = Sampling(
        images.steps, images.cfg_scale, images.seed, images.guidance, images.shift, images.sampler
    )
    missing = [i for i, path in enumerate(paths) if not kept.is_whole(path)]
    if missing:
        denoiser = records["denoiser"].folders[family(asked.family).folder]
        generate(
            load_generator(asked.family, denoiser, records, asked.dtype),
            [Prompt(prompts[i], images.width, images.height) for i in missing],
            sampling,
            NAME,
            places=missing,
            keep=lambda place, picture: kept.keep(paths[place], picture),
        )
    return Complete(paths, prompts, len(missing))


def settled(images: ClassImages, asked: Params) -> Settled:
    """Fill in what is not said: the size of training, and how the checkpoint is sampled."""
    own = DEFAULTS.get((asked.family, asked.variant or ""), UNKNOWN)
    return Settled(
        seed=images.seed,
        steps=images.steps or own.steps,
        cfg_scale=own.cfg_scale if images.cfg_scale is None else images.cfg_scale,
        guidance=images.guidance,
        shift=images.shift,
        sampler=images.sampler,
        width=images.width or asked.resolution,
        height=images.height or asked.resolution,
    )


def prompt_of(template: str, seed: int, place: int) -> str:
    """Draw the prompt of a picture: one part of every {a|b} of the class prompt."""
    return choose(template, generator(seed, "class prompt", place))
