"""What the method `controlnet` needs of the other keys, and which of its own a family reads."""

from __future__ import annotations

from collections.abc import Iterator

from stages.params.config import Config
from stages.params.methods import Controlnet

METHOD = "controlnet"
EDGES = "edges"  # of evaluate.judge
READ_BY_TYPE = {  # keys that only one conditioning_type reads
    "canny_low": "canny",
    "canny_high": "canny",
    "canny_sigma": "canny",
    "blur_radius": "blur",
    "tile_factor": "tile",
    "depth_model": "depth",
}
READ_BY_FAMILY = {  # keys that only some families read
    "num_layers": ("flux", "flux2", "sd3"),
    "num_single_layers": ("flux", "flux2"),
    "embedding_channels": ("sdxl",),
}
DEFAULTS = Controlnet()


def controlnet(config: Config) -> Iterator[str]:
    """Yield each broken rule as a sentence that names its keys."""
    if config.training.method == METHOD:
        yield from _section(config)
    elif (given := config.data.condition) is not None:
        yield (
            f"data.condition: {given!r} given, which training.method {config.training.method!r} "
            "does not read: set it to null, or take training.method 'controlnet'"
        )
    yield from _judge(config)
    yield from _prompts(config)


def _section(config: Config) -> Iterator[str]:
    asked, mode = config.training.controlnet, config.training.editing
    if asked is None:
        yield (
            "training.controlnet is null, but training.method 'controlnet' needs its "
            "conditioning_type: give it"
        )
        return
    if mode is not None:
        yield (
            f"training.editing: {mode!r} given, but a ControlNet sees neither references nor "
            "masks: set it to null, or take another training.method"
        )
    yield from _conditions(config, asked)
    yield from _unread(config, asked)
    yield from _embedding(config, asked)


def _conditions(config: Config, asked: Controlnet) -> Iterator[str]:
    given, kind = config.data.condition, asked.conditioning_type
    if kind == "given" and given is None:
        yield (
            "data.condition is null, but training.controlnet.conditioning_type 'given' reads the "
            "pictures that it names: name their column or folder, or let them be made (canny)"
        )
    if kind != "given" and given is not None:
        yield (
            f"data.condition: {given!r} given, but training.controlnet.conditioning_type is "
            f"{kind!r}, which makes its own pictures: set conditioning_type to 'given', or "
            "data.condition to null"
        )
    if kind == "depth" and asked.depth_model is None:
        yield (
            "training.controlnet.depth_model is null, but conditioning_type 'depth' needs a model: "
            "give the folder or Hugging Face id of a transformers depth estimator"
        )
    if asked.canny_low > asked.canny_high:
        yield (
            f"training.controlnet.canny_low: {asked.canny_low:g} given, at most canny_high "
            f"({asked.canny_high:g}) expected"
        )


def _unread(config: Config, asked: Controlnet) -> Iterator[str]:
    kind, family = asked.conditioning_type, config.model.type
    for name, reader in READ_BY_TYPE.items():
        if kind != reader and getattr(asked, name) != getattr(DEFAULTS, name):
            yield (
                f"training.controlnet.{name} is given, but only conditioning_type {reader!r} reads "
                f"it, not {kind!r}: take it out"
            )
    for name, readers in READ_BY_FAMILY.items():
        if family not in readers and getattr(asked, name) != getattr(DEFAULTS, name):
            yield (
                f"training.controlnet.{name} is given, but only model.type "
                f"{' and '.join(map(repr, readers))} reads it, not {family!r}: take it out"
            )


def _embedding(config: Config, asked: Controlnet) -> Iterator[str]:
    """Hold the halvings of SDXL's picture to those of the autoencoder, where that is known."""
    if config.model.type != "sdxl" or config.model.vae is None:
        return
    levels = len(config.model.vae.block_out_channels)
    if len(asked.embedding_channels) != levels:
        yield (
            f"training.controlnet.embedding_channels: {asked.embedding_channels} given, "
            f"{levels} numbers expected, for the {levels} levels of model.vae"
        )


def _judge(config: Config) -> Iterator[str]:
    """Hold the judge to the method: one asks for edges, and a ControlNet must be shown some."""
    judge, training = config.evaluate.judge, config.training
    if judge == EDGES and training.method != METHOD:
        yield (
            f"evaluate.judge: {EDGES!r} given, but training.method {training.method!r} follows no "
            "edges: set null, or take training.method 'controlnet'"
        )
    if training.method != METHOD or training.controlnet is None:
        return
    kind = training.controlnet.conditioning_type
    if judge is not None and (judge != EDGES or kind != "canny"):
        yield (
            f"evaluate.judge: {judge!r} given, but for a ControlNet of conditioning_type {kind!r} "
            f"only null is possible, and {EDGES!r} for 'canny': set one of them"
        )


def _prompts(config: Config) -> Iterator[str]:
    """Hold each prompt to one picture to follow, where a ControlNet is trained, or to none."""
    training = config.training
    follows = training.method == METHOD
    is_given = training.controlnet is not None and training.controlnet.conditioning_type == "given"
    for index, prompt in enumerate(config.sample.prompts):
        key = f"sample.prompts[{index}]"
        named = [name for name in ("condition", "condition_of") if getattr(prompt, name)]
        if follows and len(named) != 1:
            yield (
                f"{key} gives {' and '.join(named) or 'no picture to follow'}, but a ControlNet "
                "follows one: give condition, a picture to follow as it is, or condition_of, one "
                "that it is made of"
            )
        if not follows and named:
            yield (
                f"{key}.{named[0]} is given, but training.method {training.method!r} follows no "
                "pictures: take it out"
            )
        if follows and is_given and named == ["condition_of"]:
            yield (
                f"{key}.condition_of is given, but conditioning_type 'given' makes no pictures: "
                "give the picture to follow as condition"
            )
    names = any(prompt.condition or prompt.condition_of for prompt in config.sample.prompts)
    if names and config.sample.pictures is None:
        yield "sample.pictures is null, but sample.prompts name pictures: give their folder"
