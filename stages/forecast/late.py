"""What the parts of a training refuse when they are made, which is after the encoding."""

from __future__ import annotations

from accelerate import PartialState

from stages.needs import Asked
from stages.train.compiling import refuse_where_nothing_compiles
from stages.train.model import Model
from stages.train.offload import refuse_what_cannot_wait
from stages.train.stage import Params, refuse_unread_guidance


def refuse_what_training_would(model: Model, params: Params, asked: Asked) -> None:
    """Hold parameters to the base and to the device, as training does; the model has no values.

    Another machine, whose memory alone is known, is taken to have a GPU for which code compiles.

    Raises:
        ValueError: The base embeds no guidance or has fewer blocks, or something is not here.
    """
    refuse_unread_guidance(params.training.objective.guidance, model.denoiser)
    is_here = asked.device_bytes is None
    device = PartialState().device
    if params.offload_blocks:
        num_blocks, kind = len(model.denoiser.blocks()), device.type if is_here else "cuda"
        refuse_what_cannot_wait(params.offload_blocks, num_blocks, kind)
    if params.compile and is_here:
        refuse_where_nothing_compiles(device)
