"""What the method `controlnet` needs of the other keys, and which of its own a family reads."""

from __future__ import annotations

from collections.abc import Iterator

from stages.params.config import Config
from stages.params.methods import Controlnet

METHOD = "controlnet"
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
    training = config.training
    if training.method != METHOD:
        if (given := config.data.condition) is not None:
            yield (
                f"data.condition: {given!r} given, which training.method {training.method!r} does "
                "not read: set it to null, or take training.method 'controlnet'"
            )
        return
    if training.controlnet is None:
        yield (
            "training.controlnet is null, but training.method 'controlnet' needs its "
            "conditioning_type: give it"
        )
        return
    if (mode := training.editing) is not None:
        yield (
            f"training.editing: {mode!r} given, but a ControlNet sees neither references nor "
            "masks: set it to null, or take another training.method"
        )
    yield from _conditions(config, training.controlnet)
    yield from _unread(config, training.controlnet)
    yield from _embedding(config, training.controlnet)


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
