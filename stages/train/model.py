"""What a step computes with: the base, and what a method has put into it or beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from modelzoo.denoiser import Denoiser
from stages.train.editing import Editing

if TYPE_CHECKING:  # importing it takes seconds, and few trainings need it
    from modelzoo.text_encoders.live import LiveText


@dataclass
class Model:
    """The base's denoiser and, where the method trains one, a ControlNet.

    Attributes:
        denoiser: of the base; adapters are inside its network.
        controlnet: learns instead of the denoiser's network, which is then frozen.
        editing: what the denoiser is told of the batch's pictures; None: nothing.
        text: text encoders that learn; None: the stored rows of captions are what they say.
        frozen: a copy of the base as it was, where the method asks what it would have predicted.
    """

    denoiser: Denoiser
    controlnet: nn.Module | None = None
    editing: Editing | None = None
    text: LiveText | None = None
    frozen: Denoiser | None = None

    @property
    def learner(self) -> nn.Module:
        """The module that learns, in the wrapper that the engine has put around it."""
        return self.denoiser.network if self.controlnet is None else self.controlnet

    @learner.setter
    def learner(self, module: nn.Module) -> None:
        if self.controlnet is None:
            self.denoiser.network = module
        else:
            self.controlnet = module
