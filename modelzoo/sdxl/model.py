"""SDXL as a denoiser: noisy latents in, noise out, whatever the picture's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modelzoo.denoiser import NO_RESIDUALS, Denoiser
from modelzoo.layers.initialisation import init_weights
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sdxl.levels import Layers
from modelzoo.sdxl.resnet import ResnetBlock2D
from modelzoo.sdxl.transformer import Transformer2DModel
from modelzoo.sdxl.unet import UNet2DConditionModel

TIMESTEPS = 1000  # of the training schedule


class SDXLConditioning(NamedTuple):
    """What steers a prediction."""

    context: Tensor  # (B, L, D) text features, padding included: it is attended to as released
    pooled: Tensor  # (B, P)
    sizes: Tensor  # (B, 6) pixels: original height, width, crop top, left, target height, width


class SDXL(Denoiser):
    """Predict the noise in normalised latents, or their v, as the weights were taught."""

    NETWORK = UNet2DConditionModel
    CONFIG = UNetConfig

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        conditioning: SDXLConditioning,
        residuals: Mapping[str, Any] = NO_RESIDUALS,
    ) -> Tensor:
        """Give the noise (B, C, H, W), in the dtype of the noisy latents.

        Args:
            noisy: Latents (B, C, H, W) in the autoencoder's normalised space, mixed with noise.
            t: (B,) in [0, 1]; timestep k of the training schedule is k / 1000.
            conditioning: Text features and sizes.
            residuals: What a ControlNet adds to the network, by the names of its arguments.
        """
        prediction = self.network(**self.arguments(noisy, t, conditioning), **residuals)
        return prediction.to(noisy.dtype)

    def arguments(self, noisy: Tensor, t: Tensor, conditioning: SDXLConditioning) -> dict[str, Any]:
        """Lay out what the network is called with, given what `predict` is."""
        # A float32 t holds k / 1000 to 4 decimals of k, and the network's sinusoid sees the rest.
        timestep = (TIMESTEPS * t.double()).round(decimals=4).float()
        return {
            "hidden_states": noisy.to(self.dtype),
            "encoder_hidden_states": conditioning.context,
            "pooled_projections": conditioning.pooled,
            "timestep": timestep,
            "time_ids": conditioning.sizes,
        }

    def conditioning(
        self, rows: Mapping[str, Tensor], guidance: float | None = None
    ) -> SDXLConditioning:
        """Make the conditioning of rows: "context" (B, L, D), "pooled" (B, P) and "sizes" (B, 6).

        Raises:
            ValueError: A row is missing, or guidance is given, which SDXL does not embed.
        """
        if guidance is not None:
            raise ValueError(
                f"SDXL: guidance {guidance!r} was given, but this model has no guidance input; "
                "leave it out and use cfg_scale"
            )
        if missing := [name for name in SDXLConditioning._fields if name not in rows]:
            raise ValueError(
                f"SDXL: the rows have {sorted(rows)!r}, but {missing!r} are missing; encode the "
                "captions and pictures for model.type 'sdxl'"
            )
        return SDXLConditioning(
            context=rows["context"].to(self.dtype),
            pooled=rows["pooled"].to(self.dtype),
            sizes=rows["sizes"].float(),  # half precision would round 1023 pixels to 1024
        )

    def row_shapes(self, lengths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Give the shapes of "context" (L, D), both CLIPs' side by side, and "pooled" (P,)."""
        context = lengths["clip_l"], self.config.cross_attention_dim
        return {"context": context, "pooled": (self.config.pooled_dim,)}

    def blocks(self) -> Sequence[nn.Module]:
        """List resnets and transformer blocks in the order in which they run."""
        parts = [part for part in self.network.modules() if isinstance(part, Layers)]
        return [block for part in parts for block in part.blocks()]

    @staticmethod
    def init_weights(network: nn.Module, generator: torch.Generator) -> None:
        """Begin with the identity and a zero prediction (Dhariwal and Nichol 2021, as in ADM).

        The last layers of resnets, of transformers and of the network are zero.
        """
        last = [network.get_submodule("conv_out")]
        for module in network.modules():
            if isinstance(module, ResnetBlock2D):
                last.append(module.conv2)
            elif isinstance(module, Transformer2DModel):
                last.append(module.proj_out)
        init_weights(network, generator, last)
