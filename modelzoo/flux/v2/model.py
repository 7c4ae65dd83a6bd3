"""FLUX.2 as a denoiser: noisy latents in, velocity out, tokens and positions inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from modelzoo.denoiser import NO_RESIDUALS, Denoiser
from modelzoo.flux.components.conditions import (
    embedded_guidance,
    reference_tokens,
    rows_of,
    with_pictures,
)
from modelzoo.flux.components.positions import image_positions
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.modulation import SharedModulation
from modelzoo.flux.v2.positions import REFERENCE_STEP, text_positions
from modelzoo.flux.v2.transformer import Flux2Transformer2DModel, JointBlock, SingleBlock
from modelzoo.layers.initialisation import init_weights
from modelzoo.layers.modulation import ModulatedNormOut

DEFAULT_GUIDANCE = 4.0  # what dev is sampled with; klein has no guidance input


class Flux2Conditioning(NamedTuple):
    """What steers a prediction."""

    context: Tensor  # (B, L, D) text features, padding included: it is attended to as released
    guidance: Tensor | None = None  # (B,), only for models that embed guidance
    references: tuple[Tensor, ...] = ()  # latents (B, C, h, w) of pictures to look at
    fill: Tensor | None = None  # (B, C', H, W): `fill_condition`, only for Fill models
    time_offset: float = REFERENCE_STEP  # of the references, from one to the next along t


class Flux2(Denoiser):
    """Predict the velocity of normalised, patchified latents."""

    NETWORK = Flux2Transformer2DModel
    CONFIG = Flux2Config

    @property
    def transformer(self) -> nn.Module:
        """The network, by the name that the diffusers layout gives it."""
        return self.network

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        conditioning: Flux2Conditioning,
        residuals: Mapping[str, Any] = NO_RESIDUALS,
    ) -> Tensor:
        """Give the velocity (B, C, H, W) from data to noise, in the dtype of the noisy latents.

        Args:
            noisy: Latents (B, C, H, W) in the autoencoder's normalised space, mixed with noise.
            t: (B,) in [0, 1]: 0 data, 1 noise.
            conditioning: Text features, and perhaps guidance, references and what to fill.
            residuals: What a ControlNet adds to the network, by the names of its arguments.
        """
        tokens = self.network(**self.arguments(noisy, t, conditioning), **residuals)
        return rearrange(tokens, "b (h w) c -> b c h w", h=noisy.shape[-2]).to(noisy.dtype)

    def arguments(
        self, noisy: Tensor, t: Tensor, conditioning: Flux2Conditioning
    ) -> dict[str, Any]:
        """Lay out what the network is called with, given what `predict` is."""
        dtype, device = self.dtype, noisy.device
        height, width = noisy.shape[-2:]
        context, guidance, references, fill, time_offset = conditioning
        seen = places = None
        if references:
            seen, places = reference_tokens(references, time_offset, cells, 1, dtype)
        return {
            "hidden_states": cells(noisy).to(dtype),
            "encoder_hidden_states": context,
            "timestep": t,
            "img_ids": image_positions(height, width, device),
            "txt_ids": text_positions(context.shape[1], device),
            "guidance": guidance,
            "img_cond_seq": seen,
            "img_cond_seq_ids": places,
            "img_cond": None if fill is None else cells(fill).to(dtype),
        }

    def followed(self, picture: Tensor) -> Tensor:
        """Lay out latents (B, C, H, W) of a picture as the tokens that a ControlNet takes."""
        return cells(picture).to(self.dtype)

    def conditioning(
        self, rows: Mapping[str, Tensor], guidance: float | None = None
    ) -> Flux2Conditioning:
        """Make the conditioning of rows "context"; where guidance is embedded 4 is the default.

        Raises:
            ValueError: The row is missing, or guidance is given to a model that does not embed it.
        """
        (context,) = rows_of(rows, ("context",), self.dtype, "FLUX.2")
        if self.config.guidance_embeds:
            guidance_rows = embedded_guidance(guidance, DEFAULT_GUIDANCE, context)
            return Flux2Conditioning(context, guidance_rows)
        if guidance is not None:
            raise ValueError(
                f"FLUX.2: guidance {guidance!r} was given, but this model has no guidance input; "
                "leave it out and use cfg_scale"
            )
        return Flux2Conditioning(context)

    def row_shapes(self, lengths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Give the shape (L, D) of "context", of the one text encoder."""
        (length,) = lengths.values()
        return {"context": (length, self.config.joint_attention_dim)}

    def with_pictures(
        self,
        conditioning: Flux2Conditioning,
        references: Sequence[Tensor] = (),
        fill: Tensor | None = None,
        time_offset: float | None = None,
    ) -> Flux2Conditioning:
        """Add references, or what a Fill model fills, to a conditioning."""
        channels = self.config.fill_channels
        added: Flux2Conditioning = with_pictures(
            conditioning, channels, references, fill, time_offset
        )
        return added

    def blocks(self) -> Sequence[nn.Module]:
        """List the blocks, joint ones first."""
        kinds = (JointBlock, SingleBlock)
        return [module for module in self.network.modules() if isinstance(module, kinds)]

    @staticmethod
    def init_weights(network: nn.Module, generator: torch.Generator) -> None:
        """Begin with the identity and a zero prediction: modulations and last layer are zero."""
        kinds = (SharedModulation, ModulatedNormOut)
        zero = [m.linear for m in network.modules() if isinstance(m, kinds)]
        init_weights(network, generator, [*zero, network.get_submodule("proj_out")])


def cells(latents: Tensor) -> Tensor:
    """Turn latents (B, C, h, w), patchified by the autoencoder, into tokens (B, h w, C)."""
    return rearrange(latents, "b c h w -> b (h w) c")
