"""How every released checkpoint is sampled where nobody says otherwise."""

from __future__ import annotations

from typing import NamedTuple


class SamplingDefaults(NamedTuple):
    """Steps and guidance of a checkpoint."""

    steps: int
    cfg_scale: float = 1.0  # classifier-free guidance, two predictions a step; 1 is none
    guidance: float | None = None  # told to the network; None: it does not embed guidance


# by model.type and model.variant: the values of diffusers' pipelines and model cards; where those
# of the authors' own code differ, they stand behind
DEFAULTS: dict[tuple[str, str], SamplingDefaults] = {
    ("sdxl", "base-1.0"): SamplingDefaults(50, cfg_scale=5.0),
    ("flux", "dev"): SamplingDefaults(28, guidance=3.5),  # BFL: 50 steps, 2.5
    ("flux", "krea"): SamplingDefaults(28, guidance=3.5),  # BFL: 50 steps, 2.5
    ("flux", "schnell"): SamplingDefaults(4),
    ("flux", "kontext"): SamplingDefaults(28, guidance=3.5),  # BFL: 30 steps, 2.5
    ("flux", "fill"): SamplingDefaults(50, guidance=30.0),
    ("flux2", "dev"): SamplingDefaults(50, guidance=4.0),
    ("flux2", "klein-4b"): SamplingDefaults(4),
    ("flux2", "klein-9b"): SamplingDefaults(4),
    ("flux2", "klein-base-4b"): SamplingDefaults(50, cfg_scale=4.0),
    ("flux2", "klein-base-9b"): SamplingDefaults(50, cfg_scale=4.0),
    ("sd3", "large"): SamplingDefaults(28, cfg_scale=7.0),  # Stability: 40 steps, 4.5, dpmpp_2m
    ("sd3", "large-turbo"): SamplingDefaults(4),
    ("sd3", "medium"): SamplingDefaults(50, cfg_scale=5.0),  # Stability's; diffusers names none
}
