"""FLUX.2 as a denoiser: noisy latents in, velocity out, tokens and positions inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from modelzoo.denoiser import Denoiser
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.modulation import SharedModulation
from modelzoo.flux.v2.positions import image_positions, text_positions
from modelzoo.flux.v2.transformer import Flux2Transformer2DModel
from modelzoo.layers.initialisation import init_weights

DEFAULT_GUIDANCE = 4.0  # what dev is sampled with; klein has no guidance input


class Flux2Conditioning(NamedTuple):
    """What steers a prediction."""

    context: Tensor  # (B, L, D) text features, padding included: it is attended to as released
    guidance: Tensor | None = None  # (B,), only for models that embed guidance


class Flux2(Denoiser):
    """Predict the velocity of normalised, patchified latents."""

    NETWORK = Flux2Transformer2DModel
    CONFIG = Flux2Config

    @property
    def transformer(self) -> nn.Module:
        """The network, by the name that the diffusers layout gives it."""
        return self.network

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Flux2Conditioning) -> Tensor:
        """Give the velocity (B, C, H, W) from data to noise, in the dtype of the noisy latents.

        Args:
            noisy: Latents (B, C, H, W) in the autoencoder's normalised space, mixed with noise.
            t: (B,) in [0, 1]: 0 data, 1 noise.
            conditioning: Text features and perhaps guidance.
        """
        height, width = noisy.shape[-2:]
        tokens = self.transformer(
            hidden_states=rearrange(noisy, "b c h w -> b (h w) c").to(self.dtype),
            encoder_hidden_states=conditioning.context,
            timestep=t,
            img_ids=image_positions(height, width, noisy.device),
            txt_ids=text_positions(conditioning.context.shape[1], noisy.device),
            guidance=conditioning.guidance,
        )
        return rearrange(tokens, "b (h w) c -> b c h w", h=height).to(noisy.dtype)

    def conditioning(
        self, rows: Mapping[str, Tensor], guidance: float | None = None
    ) -> Flux2Conditioning:
        """Make the conditioning of rows; a model that embeds guidance has 4 as its default.

        Raises:
            ValueError: Guidance is given to a model that does not embed it.
        """
        context = rows["context"].to(self.dtype)
        if self.config.guidance_embeds:
            value = DEFAULT_GUIDANCE if guidance is None else guidance
            return Flux2Conditioning(context, torch.full((len(context),), value).to(context.device))
        if guidance is not None:
            raise ValueError(
                f"FLUX.2: guidance {guidance!r} was given, but this model has no guidance input; "
                "leave it out and use cfg_scale"
            )
        return Flux2Conditioning(context)

    def blocks(self) -> Sequence[nn.Module]:
        """List the blocks, joint ones first."""
        return [*self.network.transformer_blocks, *self.network.single_transformer_blocks]

    @staticmethod
    def init_weights(network: nn.Module, generator: torch.Generator) -> None:
        """Begin with the identity and a zero prediction: modulations and the last layer are zero."""
        shared = [m.linear for m in network.modules() if isinstance(m, SharedModulation)]
        init_weights(network, generator, [*shared, network.norm_out.linear, network.proj_out])
