"""SD3.5 as a denoiser: noisy latents in, velocity out, time in the released unit inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modelzoo.denoiser import NO_RESIDUALS, Denoiser
from modelzoo.layers.initialisation import init_weights
from modelzoo.layers.modulation import ModulatedNorm, ModulatedNormOut
from modelzoo.sd3.blocks import DualModulatedNorm
from modelzoo.sd3.config import SD3Config
from modelzoo.sd3.embeddings import PatchEmbedding
from modelzoo.sd3.transformer import SD3Transformer2DModel

TIMESTEPS = 1000  # the network's unit of time


class SD3Conditioning(NamedTuple):
    """What steers a prediction."""

    context: Tensor  # (B, L, D) CLIP's 77 tokens, padded with zeros to T5's width, then T5's tokens
    pooled: Tensor  # (B, P) of CLIP-L, then CLIP-G


class SD3(Denoiser):
    """Predict the velocity of normalised latents."""

    NETWORK = SD3Transformer2DModel
    CONFIG = SD3Config

    @property
    def transformer(self) -> nn.Module:
        """The network, by the name that the diffusers layout gives it."""
        return self.network

    @property
    def patch(self) -> int:
        """Latent cells along a side of a token."""
        return self.config.patch_size

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        conditioning: SD3Conditioning,
        residuals: Mapping[str, Any] = NO_RESIDUALS,
    ) -> Tensor:
        """Give the velocity (B, C, H, W) from data to noise, in the dtype of the noisy latents.

        Args:
            noisy: Latents (B, C, H, W) in the autoencoder's normalised space, mixed with noise.
            t: (B,) in [0, 1]: 0 data, 1 noise.
            conditioning: Text features.
            residuals: What a ControlNet adds to the network, by the names of its arguments.
        """
        velocity = self.network(**self.arguments(noisy, t, conditioning), **residuals)
        return velocity.to(noisy.dtype)

    def arguments(self, noisy: Tensor, t: Tensor, conditioning: SD3Conditioning) -> dict[str, Any]:
        """Lay out what the network is called with, given what `predict` is."""
        return {
            "hidden_states": noisy.to(self.dtype),
            "encoder_hidden_states": conditioning.context,
            "pooled_projections": conditioning.pooled,
            "timestep": TIMESTEPS * t,
        }

    def conditioning(
        self, rows: Mapping[str, Tensor], guidance: float | None = None
    ) -> SD3Conditioning:
        """Make the conditioning of rows: "context" (B, L, D) and "pooled" (B, P).

        Raises:
            ValueError: A row is missing, or guidance is given, which SD3.5 does not embed.
        """
        if guidance is not None:
            raise ValueError(
                f"SD3.5: guidance {guidance!r} was given, but this model has no guidance input; "
                "leave it out and use cfg_scale"
            )
        if missing := [name for name in SD3Conditioning._fields if name not in rows]:
            raise ValueError(
                f"SD3.5: the rows have {sorted(rows)!r}, but {missing!r} are missing; encode the "
                "captions for model.type 'sd3'"
            )
        return SD3Conditioning(rows["context"].to(self.dtype), rows["pooled"].to(self.dtype))

    def row_shapes(self, lengths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Give the shapes of "context" (L, D), CLIP's tokens before T5's, and "pooled" (P,)."""
        context = lengths["clip_l"] + lengths["t5"], self.config.joint_attention_dim
        return {"context": context, "pooled": (self.config.pooled_projection_dim,)}

    def blocks(self) -> Sequence[nn.Module]:
        """List the blocks, first to last."""
        return list(self.network.get_submodule("transformer_blocks").children())

    @staticmethod
    def init_weights(network: nn.Module, generator: torch.Generator) -> None:
        """Begin with the identity and a zero prediction: no modulation, and a zero last layer."""
        zero = [network.get_submodule("proj_out")]
        for module in network.modules():
            if isinstance(module, ModulatedNorm | DualModulatedNorm | ModulatedNormOut):
                zero.append(module.linear)
            elif isinstance(module, PatchEmbedding):
                module.pos_embed.copy_(module.table())
        init_weights(network, generator, zero)
