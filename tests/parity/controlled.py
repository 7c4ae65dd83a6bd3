"""Toy bases and ControlNets of every family, ours and diffusers', and how diffusers is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor, nn

from modelzoo.denoiser import Denoiser
from modelzoo.flux.components.positions import image_positions
from modelzoo.flux.v1 import controlnet as flux1
from modelzoo.flux.v1.config import Flux1Config
from modelzoo.flux.v1.latents import text_positions
from modelzoo.flux.v1.model import Flux1
from modelzoo.flux.v2 import controlnet as flux2
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2
from modelzoo.flux.v2.positions import text_positions as counted_positions
from modelzoo.sd3 import controlnet as sd3
from modelzoo.sd3.config import SD3Config
from modelzoo.sd3.model import SD3
from modelzoo.sdxl import controlnet as sdxl
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sdxl.model import SDXL

CPU = torch.device("cpu")
Inputs = dict[str, Any]


class Case(NamedTuple):
    """A family at toy size: how its base and ControlNet are made here and asked in diffusers."""

    denoiser: type[Denoiser]
    config: Any
    grow: Callable[[Any], nn.Module]
    base: Callable[..., nn.Module]  # diffusers' classes
    net: Callable[..., nn.Module]
    batch: Callable[[int, int], Inputs]  # of the base, for a picture of so many tokens or cells
    condition: Callable[[int, int], Tensor]
    ask_net: Callable[..., tuple[Any, ...]]  # residuals, in the order of ours
    ask_base: Callable[..., Tensor]


def tokens(height: int, width: int) -> Inputs:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(3, height * width, 8),
        "encoder_hidden_states": torch.randn(3, 7, 20),
        "timestep": torch.tensor([0.0, 0.25, 1.0]),
        "img_ids": image_positions(height, width, CPU),
        "guidance": torch.tensor([1.0, 3.5, 30.0]),
    }


def flux1_batch(height: int, width: int) -> Inputs:
    return {
        **tokens(height, width),
        "pooled_projections": torch.randn(3, 12),
        "txt_ids": text_positions(7, CPU),
    }


def flux2_batch(height: int, width: int) -> Inputs:
    return {**tokens(height, width), "txt_ids": counted_positions(7, CPU)}


def cells(height: int, width: int) -> Inputs:
    """An even number of cells a side, as SD3.5's patches need."""
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(3, 4, 2 * height, 2 * width),
        "encoder_hidden_states": torch.randn(3, 7, 20),
        "pooled_projections": torch.randn(3, 10),
        "timestep": torch.tensor([0.0, 370.0, 999.0]),
    }


def sdxl_batch(height: int, width: int) -> Inputs:
    return {**cells(height, width), "time_ids": torch.randint(0, 2000, (3, 6)).float()}


def columns(inputs: Inputs) -> Inputs:
    """Positions of three columns, as FLUX.1 in diffusers has them."""
    return {**inputs, **{name: inputs[name][:, :3] for name in ("img_ids", "txt_ids")}}


def ask_flux1_net(net: nn.Module, inputs: Inputs, cond: Tensor, scale: float) -> tuple[Any, ...]:
    asked = net(
        **columns(inputs), controlnet_cond=cond, conditioning_scale=scale, return_dict=False
    )
    return tuple(samples or () for samples in asked)


def ask_flux1_base(base: nn.Module, inputs: Inputs, residuals: tuple[Any, ...]) -> Tensor:
    double, single = (list(samples) or None for samples in residuals)
    return base(
        **columns(inputs),
        controlnet_block_samples=double,
        controlnet_single_block_samples=single,
        return_dict=False,
    )[0]


class Flux2Net(nn.Module):
    """What FLUX.2 has no class for in diffusers: its transformer, watched from outside."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        config.pop("out_channels", None)
        base = diffusers.Flux2Transformer2DModel(**config)
        del base.norm_out, base.proj_out
        for name, child in base.named_children():
            setattr(self, name, child)
        dim = config["num_attention_heads"] * config["attention_head_dim"]
        for name, count in (("", "num_layers"), ("single_", "num_single_layers")):
            layers = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(config[count]))
            setattr(self, f"controlnet_{name}blocks", layers)
        self.controlnet_x_embedder = nn.Linear(config["in_channels"], dim, bias=False)
        self._base = [base]  # out of the state

    def residuals(self, inputs: Inputs, cond: Tensor, scale: float) -> tuple[Any, ...]:
        base, num_text = self._base[0], inputs["encoder_hidden_states"].shape[1]
        base.norm_out, base.proj_out = (lambda x, temb: x), nn.Identity()
        double, single = [], []
        handles = [
            base.x_embedder.register_forward_hook(
                lambda _, args, out: out + self.controlnet_x_embedder(cond)
            )
        ]
        for block in base.transformer_blocks:  # which gives text, image
            handles.append(block.register_forward_hook(lambda _, args, out: double.append(out[1])))
        for block in base.single_transformer_blocks:
            handles.append(
                block.register_forward_hook(lambda _, args, out: single.append(out[:, num_text:]))
            )
        base(**inputs, return_dict=False)
        for handle in handles:
            handle.remove()
        return tuple(
            tuple(layer(sample) * scale for layer, sample in zip(layers, samples, strict=True))
            for layers, samples in (
                (self.controlnet_blocks, double),
                (self.controlnet_single_blocks, single),
            )
        )


def ask_flux2_net(net: Any, inputs: Inputs, cond: Tensor, scale: float) -> tuple[Any, ...]:
    return net.residuals(inputs, cond, scale)


def ask_flux2_base(base: Any, inputs: Inputs, residuals: tuple[Any, ...]) -> Tensor:
    """Add residuals behind diffusers' blocks, which block has which as in its FLUX.1."""
    num_text = inputs["encoder_hidden_states"].shape[1]
    handles = []
    for blocks, samples, single in (
        (base.transformer_blocks, residuals[0], False),
        (base.single_transformer_blocks, residuals[1], True),
    ):
        for index, block in enumerate(blocks) if samples else ():
            interval = int(torch.ceil(torch.tensor(len(blocks) / len(samples))))
            sample = samples[index // interval]

            def hook(_, args, out, sample=sample, single=single):
                if single:
                    return torch.cat([out[:, :num_text], out[:, num_text:] + sample], dim=1)
                return out[0], out[1] + sample

            handles.append(block.register_forward_hook(hook))
    velocity = base(**inputs, return_dict=False)[0]
    for handle in handles:
        handle.remove()
    return velocity


def ask_sd3_net(net: nn.Module, inputs: Inputs, cond: Tensor, scale: float) -> tuple[Any, ...]:
    """Give zeros for the pooled text where the configuration says so, as the pipelines do."""
    pooled = inputs["pooled_projections"]
    if net.config.force_zeros_for_pooled_projection:
        pooled = torch.zeros_like(pooled)
    inputs = {**inputs, "pooled_projections": pooled}
    asked = net(**inputs, controlnet_cond=cond, conditioning_scale=scale, return_dict=False)
    return (tuple(asked[0]),)


def ask_sd3_base(base: nn.Module, inputs: Inputs, residuals: tuple[Any, ...]) -> Tensor:
    return base(
        **inputs, block_controlnet_hidden_states=list(residuals[0]) or None, return_dict=False
    )[0]


def unet_arguments(inputs: Inputs) -> Inputs:
    return {
        "sample": inputs["hidden_states"],
        "timestep": inputs["timestep"],
        "encoder_hidden_states": inputs["encoder_hidden_states"],
        "added_cond_kwargs": {
            "text_embeds": inputs["pooled_projections"],
            "time_ids": inputs["time_ids"],
        },
        "return_dict": False,
    }


def ask_sdxl_net(net: nn.Module, inputs: Inputs, cond: Tensor, scale: float) -> tuple[Any, ...]:
    down, mid = net(**unet_arguments(inputs), controlnet_cond=cond, conditioning_scale=scale)
    return tuple(down), mid


def ask_sdxl_base(base: nn.Module, inputs: Inputs, residuals: tuple[Any, ...]) -> Tensor:
    down, mid = residuals
    return base(
        **unet_arguments(inputs),
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    )[0]


FLUX1_CONFIG = Flux1Config(
    in_channels=8,
    num_layers=5,
    num_single_layers=5,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=20,
    pooled_projection_dim=12,
    axes_dims_rope=(4, 6, 6),
    guidance_embeds=True,
)
FLUX2_CONFIG = Flux2Config(
    in_channels=8,
    num_layers=3,
    num_single_layers=5,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=20,
    axes_dims_rope=(4, 4, 4, 4),
)
SD3_CONFIG = SD3Config(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    num_layers=6,
    attention_head_dim=12,
    num_attention_heads=2,
    joint_attention_dim=20,
    caption_projection_dim=24,
    pooled_projection_dim=10,
    pos_embed_max_size=12,
    qk_norm="rms_norm",
    dual_attention_layers=(0, 1, 2),
)
SDXL_CONFIG = UNetConfig(
    block_out_channels=(8, 16, 32),
    attention_head_dim=(1, 2, 4),
    transformer_layers_per_block=(1, 1, 2),
    norm_num_groups=4,
    cross_attention_dim=20,
    addition_time_embed_dim=8,  # as in the released 256, the frequencies round as diffusers' do
    projection_class_embeddings_input_dim=48 + 10,
)


def flux_case(num_layers: int, num_single_layers: int) -> Case:
    return Case(
        Flux1,
        FLUX1_CONFIG,
        lambda denoiser: flux1.controlnet_from(denoiser, num_layers, num_single_layers),
        diffusers.FluxTransformer2DModel,
        diffusers.FluxControlNetModel,
        flux1_batch,
        lambda height, width: torch.randn(3, height * width, 8),
        ask_flux1_net,
        ask_flux1_base,
    )


def flux2_case(num_layers: int, num_single_layers: int) -> Case:
    return Case(
        Flux2,
        FLUX2_CONFIG,
        lambda denoiser: flux2.controlnet_from(denoiser, num_layers, num_single_layers),
        diffusers.Flux2Transformer2DModel,
        Flux2Net,
        flux2_batch,
        lambda height, width: torch.randn(3, height * width, 8),
        ask_flux2_net,
        ask_flux2_base,
    )


def sd3_case(num_layers: int, extra: int, config: SD3Config = SD3_CONFIG) -> Case:
    return Case(
        SD3,
        config,
        lambda denoiser: sd3.controlnet_from(denoiser, num_layers, extra),
        diffusers.SD3Transformer2DModel,
        diffusers.SD3ControlNetModel,
        cells,
        lambda height, width: torch.randn(3, 4 + extra, 2 * height, 2 * width),
        ask_sd3_net,
        ask_sd3_base,
    )


def sdxl_case(config: UNetConfig = SDXL_CONFIG) -> Case:
    return Case(
        SDXL,
        config,
        lambda denoiser: sdxl.controlnet_from(denoiser, seed=4, embedding_channels=(4, 6, 8, 10)),
        diffusers.UNet2DConditionModel,
        diffusers.ControlNetModel,
        sdxl_batch,
        lambda height, width: torch.rand(3, 3, 16 * height, 16 * width),
        ask_sdxl_net,
        ask_sdxl_base,
    )
