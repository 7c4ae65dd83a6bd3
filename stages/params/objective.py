"""Section `training.objective`: how noise is added, what is predicted, and how errors count."""

from __future__ import annotations

from dataclasses import dataclass

from stages.params.schema import choice, number


@dataclass(frozen=True)
class Objective:
    """How noise is added, which times are trained, and how errors count.

    `guidance` is 1 while training also for models that are sampled with more: a model distilled
    from classifier-free guidance answers guidance 1 with the data's own conditional distribution,
    which is what the loss asks for; with a higher value it would unlearn its guidance.
    """

    type: str = choice("flow_matching", "flow_matching", "ddpm")  # kind of noise process
    timestep_sampling: str = choice(  # law of t
        "logit_normal", "uniform", "logit_normal", "mode", "cosmap", "sigmoid"
    )
    logit_mean: float = number(0.0)  # of logit_normal; above 0 trains more near pure noise
    logit_std: float = number(1.0, above=0)  # of logit_normal and sigmoid
    mode_scale: float = number(1.29, at_least=-1, at_most=1.75)  # of mode; 0 is uniform
    shift: float = number(1.0, above=0)  # of t; above 1 trains more near pure noise
    resolution_shift: str | None = choice(None, "flux", "flux2", "sd3")  # multiplies shift by size
    base_tokens: int = number(256, at_least=1)  # of flux and sd3: image tokens of their base
    max_tokens: int = number(4096, at_least=2)  # of flux: image tokens that have max_shift
    base_shift: float = number(0.5)  # of flux: logarithm of the shift at base_tokens
    max_shift: float = number(1.15)  # of flux: logarithm of the shift at max_tokens
    weighting: str = choice(  # of the loss, by t
        "none", "none", "sigma_sqrt", "cosmap", "min_snr", "debiased"
    )
    snr_gamma: float = number(5.0, above=0)  # of min_snr: the highest weight of an error of data
    loss: str = choice("mse", "mse", "huber", "smooth_l1")  # of each number of the prediction
    huber_delta: float = number(1.0, above=0)  # of huber and smooth_l1: squares up to this error
    noise_offset: float = number(0.0, at_least=0)  # of ddpm: share of noise a whole channel has
    guidance: float = number(1.0, at_least=0)  # told to models that embed it; 1 is none
