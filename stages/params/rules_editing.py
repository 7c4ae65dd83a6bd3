"""What the editing modes need of the family and of the dataset, and which roles are read."""

from __future__ import annotations

from collections.abc import Iterator

from stages.params.config import Config

EDITABLE = ("flux", "flux2")  # families whose networks look at pictures


def editing(config: Config) -> Iterator[str]:
    """Yield each broken rule of `training.editing` as a sentence that names its keys."""
    mode, family = config.training.editing, config.model.type
    if mode is not None and family not in EDITABLE:
        yield (
            f"training.editing: {mode!r} given, but model.type {family!r} edits no pictures: set "
            f"null, or take one of {' and '.join(EDITABLE)}"
        )
    for section in ("kontext", "fill"):
        if getattr(config.training, section) is not None and mode != section:
            yield (
                f"training.{section} is given, but training.editing is {mode!r}: set training."
                f"{section} to null, or training.editing to {section!r}"
            )
    yield from _references(config, mode)
    yield from _masks(config, mode)


def _references(config: Config, mode: str | None) -> Iterator[str]:
    if mode == "kontext" and not config.data.references:
        yield (
            "data.references is empty, but training.editing 'kontext' learns from them: name the "
            "columns or folders that hold them"
        )
    if mode != "kontext" and config.data.references:
        yield (
            f"data.references: {config.data.references} given, but training.editing is {mode!r}, "
            "which reads none: set [] or training.editing to 'kontext'"
        )


def _masks(config: Config, mode: str | None) -> Iterator[str]:
    given = config.data.mask
    reads_files = mode == "fill" and not config.training.draws_masks
    if reads_files and given is None:
        yield (
            "data.mask is null, but training.editing 'fill' learns from masks: name their column "
            "or folder, or set training.fill.masks to 'random'"
        )
    if given is not None and not reads_files:
        reader = "draws masks at random" if mode == "fill" else "reads none"
        yield (
            f"data.mask: {given!r} given, but training.editing {mode!r} {reader}: set data.mask to "
            "null, or training.editing to 'fill' with training.fill.masks 'files'"
        )


def prompts(config: Config) -> Iterator[str]:
    """Yield each broken rule of the pictures that prompts name."""
    mode, family = config.training.editing, config.model.type
    if not config.sample.edits:
        if mode == "fill":
            yield (
                "sample.prompts name no masks, but training.editing 'fill' makes a model that "
                "only fills: give each prompt references: [picture] and mask: picture"
            )
        return
    if family not in EDITABLE:
        yield (
            f"sample.prompts name pictures, but model.type {family!r} edits none: take "
            "references and mask out"
        )
    if config.sample.pictures is None:
        yield "sample.pictures is null, but sample.prompts name pictures: give their folder"
    for index, prompt in enumerate(config.sample.prompts):
        key = f"sample.prompts[{index}]"
        if mode == "fill" and prompt.mask is None:
            yield f"{key}.mask is null, but training.editing 'fill' learns to fill: give one"
        if mode != "fill" and prompt.mask is not None:
            yield (
                f"{key}.mask: {prompt.mask!r} given, but training.editing is {mode!r}: only "
                "'fill' reads masks"
            )
        if prompt.mask is not None and len(prompt.references) != 1:
            yield (
                f"{key}.mask: {prompt.mask!r} given with {len(prompt.references)} references, but "
                "it says what is filled in exactly one: name that picture in references"
            )
