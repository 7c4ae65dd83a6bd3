"""Sections `sample`, `evaluate` and `export`: what is done with the trained weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.params.schema import choice, number


@dataclass(frozen=True)
class Prompt:
    """A picture to make."""

    prompt: str  # the text; empty is allowed
    width: int = number(1024, at_least=1)  # pixels
    height: int = number(1024, at_least=1)  # pixels
    references: list[str] = field(default_factory=list)  # pictures to look at, in sample.pictures
    mask: str | None = None  # picture there whose white is filled in the one reference
    condition: str | None = None  # picture there that a ControlNet follows as it is
    condition_of: str | None = None  # picture there of which its condition is made as in training


@dataclass(frozen=True)
class Sample:
    """The grid of sample pictures."""

    prompts: list[Prompt] = field(default_factory=list)  # the pictures of the grid, in order
    pictures: str | None = None  # folder of what prompts name; `use` fills it in if nothing
    steps: int = number(20, at_least=1)  # of the sampler
    cfg_scale: float = number(4.0, at_least=0)  # classifier-free guidance; 1 is none
    seed: int = number(1234, at_least=0, below=2**63)  # of the starting noise
    guidance: float | None = number(None, at_least=0)  # told to models that embed it; null: theirs
    shift: float | None = number(None, above=0)  # of the sampler's t; null: the model's own
    sampler: str | None = choice(None, "euler", "ddim", "dpmpp_2m")  # null: the model's own
    keep_unmasked: str = choice(
        "pixels", "pixels", "latents", "none"
    )  # of a picture to be filled; none: all is as the model paints it

    @property
    def edits(self) -> bool:
        """Tell whether a prompt is given pictures to edit."""
        return any(prompt.references or prompt.mask for prompt in self.prompts)

    @property
    def names_pictures(self) -> bool:
        """Tell whether a prompt is given pictures to edit or to follow."""
        return self.edits or any(each.condition or each.condition_of for each in self.prompts)


@dataclass(frozen=True)
class Evaluate:
    """The metrics of the trained weights."""

    judge: str | None = choice(
        None, "digits", "edges"
    )  # reader of pictures; null: validation losses only
    judge_path: str | None = None  # the judge's folder; without a judge `use` writes train_path
    num_prompts: int | None = number(None, at_least=1)  # first prompts of the judge; null: all
    seed: int = number(99, at_least=0, below=2**63)  # of the starting noise and the judge's split
    steps: int | None = number(None, at_least=1)  # of the sampler; null: as sample.steps
    cfg_scale: float | None = number(None, at_least=0)  # null: as sample.cfg_scale


@dataclass(frozen=True)
class Export:
    """The files for users."""

    format: str = choice("diffusers", "diffusers")  # layout of the exported folder
    merge: bool = False  # of adapters: a whole model with the adapters in its weights
    # of adapters: files to write; null: all forms that can hold them
    lora_formats: list[str] | None = choice(None, "diffusers", "comfyui", "peft")
