"""Small and full-size networks of diffusers and transformers, with their published layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from torch import Tensor, nn

from modelzoo.checkpoints.layouts.clip import CLIP, OPEN_CLIP
from modelzoo.checkpoints.layouts.flux1 import FLUX1
from modelzoo.checkpoints.layouts.flux2 import FLUX2
from modelzoo.checkpoints.layouts.sd3 import SD3
from modelzoo.checkpoints.layouts.sdxl import SDXL
from modelzoo.checkpoints.layouts.table import Layout
from modelzoo.checkpoints.layouts.text import QWEN3, T5
from modelzoo.checkpoints.layouts.vae import VAE
from modelzoo.checkpoints.single_file import Component
from modelzoo.checkpoints.stream import MemorySource

LEVELS = 4
VAE_SIZES = {
    "down_block_types": ["DownEncoderBlock2D"] * LEVELS,
    "up_block_types": ["UpDecoderBlock2D"] * LEVELS,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "sample_size": 1024,
}
UNQUANTISED = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
TINY_VAE = {**VAE_SIZES, "block_out_channels": [32, 32, 64, 64]}
UNET = {
    "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
KLEIN_4B = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
LARGE = {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
    "qk_norm": "rms_norm",
}
MEDIUM = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "dual_attention_layers": tuple(range(13)),
}
CLIP_G = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "intermediate_size": 5120,
    "projection_dim": 1280,
}


class Network(NamedTuple):
    """A network, the layout it is published in and where it belongs."""

    make: Callable[[], nn.Module]
    layout: Layout
    component: str
    family: str


def _denoiser(cls: Any, layout: Layout, component: str, family: str, **sizes: Any) -> Network:
    return Network(lambda: cls(**sizes), layout, component, family)


def flux1(**sizes: Any) -> Network:
    cls = diffusers.FluxTransformer2DModel
    return _denoiser(cls, FLUX1, "transformer", "flux", **sizes)


def flux2(**sizes: Any) -> Network:
    cls = diffusers.Flux2Transformer2DModel
    return _denoiser(cls, FLUX2, "transformer", "flux2", **sizes)


def sd3(**sizes: Any) -> Network:
    return _denoiser(diffusers.SD3Transformer2DModel, SD3, "transformer", "sd3", **sizes)


def sdxl(**sizes: Any) -> Network:
    return _denoiser(diffusers.UNet2DConditionModel, SDXL, "unet", "sdxl", **{**UNET, **sizes})


def vae(family: str, **sizes: Any) -> Network:
    cls = diffusers.AutoencoderKLFlux2 if family == "flux2" else diffusers.AutoencoderKL
    return _denoiser(cls, VAE, "vae", family, **sizes)


def clip(component: str, layout: Layout, **sizes: Any) -> Network:
    cls, config = transformers.CLIPTextModelWithProjection, transformers.CLIPTextConfig
    return Network(lambda: cls(config(**sizes)), layout, component, "sdxl")


FULL_SIZE = {  # with the number of tensors in the published file
    "flux1-dev": (flux1(guidance_embeds=True), 780),
    "flux1-schnell": (flux1(), 776),
    "flux1-fill": (flux1(in_channels=384, out_channels=64, guidance_embeds=True), 780),
    "flux2-dev": (flux2(), 299),
    "flux2-klein-4b": (flux2(**KLEIN_4B), 149),
    "flux2-klein-9b": (
        flux2(
            num_single_layers=24,
            num_attention_heads=32,
            joint_attention_dim=12288,
            guidance_embeds=False,
        ),
        201,
    ),
    "sd3.5-large": (sd3(**LARGE), 923),
    "sd3.5-medium": (sd3(**MEDIUM), 665),
    "sdxl-unet": (sdxl(), 1680),
    "sdxl-vae": (vae("sdxl", **VAE_SIZES), 248),
    "flux1-vae": (vae("flux", **VAE_SIZES, **UNQUANTISED), 244),
    "flux2-vae": (vae("flux2"), 251),
    "flux2-small-decoder": (
        vae("flux2", decoder_block_out_channels=[96, 192, 384, 384]),
        251,
    ),
    "sdxl-clip-g": (clip("clip_g", OPEN_CLIP, **CLIP_G), 389),
}

TINY_DIT = {"num_layers": 2, "num_single_layers": 3, "num_attention_heads": 1}
TINY_SD3 = {
    "num_layers": 3,
    "num_attention_heads": 2,
    "caption_projection_dim": 128,
    "joint_attention_dim": 48,
    "pooled_projection_dim": 40,
    "pos_embed_max_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "qk_norm": "rms_norm",
}
TINY_UNET = {
    "block_out_channels": [64, 64, 128],
    "transformer_layers_per_block": [1, 1, 2],
    "attention_head_dim": [1, 1, 2],
    "cross_attention_dim": 48,
    "projection_class_embeddings_input_dim": 40 + 6 * 256,
}
TINY_CLIP = {
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 96,
    "projection_dim": 48,
    "max_position_embeddings": 9,
}
TINY_T5 = {
    "vocab_size": 50,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
}
TINY_DECODER = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "intermediate_size": 48,
}


def _t5() -> nn.Module:
    return transformers.T5EncoderModel(transformers.T5Config(**TINY_T5))


def _qwen3() -> nn.Module:
    sizes = {**TINY_DECODER, "tie_word_embeddings": False}
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes))


TINY = {
    "flux1": flux1(joint_attention_dim=48, pooled_projection_dim=40, **TINY_DIT),
    "flux1-guidance": flux1(
        joint_attention_dim=48, pooled_projection_dim=40, guidance_embeds=True, **TINY_DIT
    ),
    "flux1-fill": flux1(
        in_channels=384, out_channels=64, joint_attention_dim=48, guidance_embeds=True, **TINY_DIT
    ),
    "flux2": flux2(joint_attention_dim=48, **TINY_DIT),
    "flux2-klein": flux2(joint_attention_dim=48, guidance_embeds=False, **TINY_DIT),
    "sd3": sd3(**TINY_SD3),
    "sd3-dual": sd3(dual_attention_layers=(0, 1), **TINY_SD3),
    "sdxl": sdxl(**TINY_UNET),
    "sdxl-attending-everywhere": sdxl(
        **{
            **TINY_UNET,
            "down_block_types": ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2,
            "block_out_channels": [64, 128],
            "attention_head_dim": [1, 2],
            "layers_per_block": 1,
            "transformer_layers_per_block": [1, 2, 3],
            "reverse_transformer_layers_per_block": [2, 1],
        }
    ),
    "sdxl-vae": vae("sdxl", **TINY_VAE, scaling_factor=0.13025),
    "flux1-vae": vae("flux", **TINY_VAE, **UNQUANTISED, scaling_factor=0.3611, shift_factor=0.1159),
    "sd3-vae": vae("sd3", **TINY_VAE, **UNQUANTISED, scaling_factor=1.5305, shift_factor=0.0609),
    "flux2-vae": vae(
        "flux2",
        block_out_channels=(32, 64),
        decoder_block_out_channels=(64, 96),
        latent_channels=8,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    ),
    "open-clip": clip("clip_g", OPEN_CLIP, **TINY_CLIP),
    "clip": clip("clip_l", CLIP, **TINY_CLIP),
    "t5": Network(_t5, T5, "t5", "flux"),
    "qwen3": Network(_qwen3, QWEN3, "qwen3", "flux2"),
}


@cache
def tensors(name: str) -> dict[str, Tensor]:
    """Make random tensors for the tiny network of a name, in float16 to be small."""
    with torch.device("meta"):
        state = TINY[name].make().state_dict()
    state.pop("encoder.embed_tokens.weight", None)  # the same tensor as T5's shared.weight
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tensor.shape, generator=generator).to(
            torch.float16 if tensor.is_floating_point() else tensor.dtype
        )
        for name, tensor in state.items()
    }


def source(state: Mapping[str, Tensor]) -> MemorySource:
    """Give tensors in memory as a source."""
    return MemorySource(state, "memory", "diffusers")


def component(name: str) -> Component:
    """Give the tiny network of a name as it lies on disk."""
    return Component(config_of(TINY[name]), source(tensors(name)))


def assert_same(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert given.keys() == wanted.keys()
    assert [k for k in wanted if not torch.equal(given[k], wanted[k])] == []


def config_of(network: Network) -> dict[str, Any]:
    with torch.device("meta"):
        module = network.make()
    if isinstance(module.config, transformers.PretrainedConfig):
        return as_json({**module.config.to_dict(), "architectures": [type(module).__name__]})
    return as_json({**module.config, "_class_name": type(module).__name__})


def as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config))


def rebuilt_shapes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Build the network that a config.json describes, as diffusers or transformers would."""
    with torch.device("meta"):
        if "_class_name" in config:
            module = getattr(diffusers, config["_class_name"]).from_config(dict(config))
        else:
            cls = getattr(transformers, config["architectures"][0])
            module = cls(cls.config_class.from_dict(dict(config)))
    shapes = {k: v.shape for k, v in module.state_dict().items()}
    shapes.pop("encoder.embed_tokens.weight", None)  # the same tensor as T5's shared.weight
    return shapes
