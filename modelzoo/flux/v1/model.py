"""FLUX.1 as a denoiser: noisy latents in, velocity out, tokens and positions inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modelzoo.denoiser import NO_RESIDUALS, Denoiser
from modelzoo.flux.components.conditions import (
    embedded_guidance,
    reference_tokens,
    rows_of,
    with_pictures,
)
from modelzoo.flux.components.positions import image_positions
from modelzoo.flux.v1.config import Flux1Config
from modelzoo.flux.v1.latents import PATCH, REFERENCE_STEP, pack, text_positions, unpack
from modelzoo.flux.v1.transformer import FluxTransformer2DModel, JointBlock, SingleBlock
from modelzoo.layers.initialisation import init_weights
from modelzoo.layers.modulation import ModulatedNorm, ModulatedNormOut

DEFAULT_GUIDANCE = 3.5  # what dev and Kontext are sampled with; schnell has no guidance input
FILL_GUIDANCE = 30.0


class Flux1Conditioning(NamedTuple):
    """What steers a prediction."""

    context: Tensor  # (B, L, D) of T5, padding included: it is attended to as released
    pooled: Tensor  # (B, P) of CLIP-L
    guidance: Tensor | None = None  # (B,), only for models that embed guidance
    references: tuple[Tensor, ...] = ()  # latents (B, C, h, w) of pictures to look at (Kontext)
    fill: Tensor | None = None  # (B, C', H, W): `fill_condition`, only for Fill models
    time_offset: float = REFERENCE_STEP  # of the references, from one to the next along t


class Flux1(Denoiser):
    """Predict the velocity of normalised latents."""

    NETWORK = FluxTransformer2DModel
    CONFIG = Flux1Config

    @property
    def transformer(self) -> nn.Module:
        """The network, by the name that the diffusers layout gives it."""
        return self.network

    @property
    def patch(self) -> int:
        """Latent cells along a side of a token."""
        return PATCH

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        conditioning: Flux1Conditioning,
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
        return unpack(tokens, noisy.shape[-2]).to(noisy.dtype)

    def arguments(
        self, noisy: Tensor, t: Tensor, conditioning: Flux1Conditioning
    ) -> dict[str, Any]:
        """Lay out what the network is called with, given what `predict` is."""
        dtype, device = self.dtype, noisy.device
        height, width = noisy.shape[-2:]
        context, pooled, guidance, references, fill, time_offset = conditioning
        seen = places = None
        if references:
            seen, places = reference_tokens(references, time_offset, pack, PATCH, dtype)
        return {
            "hidden_states": pack(noisy).to(dtype),
            "encoder_hidden_states": context,
            "pooled_projections": pooled,
            "timestep": t,
            "img_ids": image_positions(height // PATCH, width // PATCH, device),
            "txt_ids": text_positions(context.shape[1], device),
            "guidance": guidance,
            "img_cond_seq": seen,
            "img_cond_seq_ids": places,
            "img_cond": None if fill is None else pack(fill).to(dtype),
        }

    def followed(self, picture: Tensor) -> Tensor:
        """Lay out latents (B, C, H, W) of a picture as the tokens that a ControlNet takes."""
        return pack(picture).to(self.dtype)

    def conditioning(
        self, rows: Mapping[str, Tensor], guidance: float | None = None
    ) -> Flux1Conditioning:
        """Make the conditioning of rows "context" and "pooled".

        A model that embeds guidance has 3.5 as its default, 30 if it fills or follows a picture.

        Raises:
            ValueError: A row is missing, or guidance is given to a model that does not embed it.
        """
        context, pooled = rows_of(rows, ("context", "pooled"), self.dtype, "FLUX.1")
        if self.config.guidance_embeds:
            default = FILL_GUIDANCE if self.config.fill_channels else DEFAULT_GUIDANCE
            guidance_rows = embedded_guidance(guidance, default, context)
            return Flux1Conditioning(context, pooled, guidance_rows)
        if guidance is not None:
            raise ValueError(
                f"FLUX.1: guidance {guidance!r} was given, but this model has no guidance input; "
                "leave it out and use cfg_scale"
            )
        return Flux1Conditioning(context, pooled)

    def row_shapes(self, lengths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Give the shapes of "context" (L, D), which is T5's, and "pooled" (P,)."""
        context = lengths["t5"], self.config.joint_attention_dim
        return {"context": context, "pooled": (self.config.pooled_projection_dim,)}

    def with_pictures(
        self,
        conditioning: Flux1Conditioning,
        references: Sequence[Tensor] = (),
        fill: Tensor | None = None,
        time_offset: float | None = None,
    ) -> Flux1Conditioning:
        """Add references, or what a Fill model fills, to a conditioning."""
        channels = self.config.fill_channels
        added: Flux1Conditioning = with_pictures(
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
        kinds = (ModulatedNorm, ModulatedNormOut)
        zero = [m.linear for m in network.modules() if isinstance(m, kinds)]
        init_weights(network, generator, [*zero, network.get_submodule("proj_out")])
