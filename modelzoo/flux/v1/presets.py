"""From the pipeline's parameters (`model:` in params.yaml) to the configurations of FLUX.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelzoo.checkpoints.config import LAYOUT_VERSION
from modelzoo.flux.v1.config import MLP_RATIO, Flux1Config
from modelzoo.flux.v1.latents import PATCH

PIPELINES = {
    "dev": "FluxPipeline",
    "schnell": "FluxPipeline",
    "kontext": "FluxKontextPipeline",
    "fill": "FluxFillPipeline",
}
CONTEXT_DIM = 4096  # of T5 XXL
POOLED_DIM = 768  # of CLIP-L
VAE = {
    "latent_channels": 16,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
NEEDS = {
    "hidden_size",
    "num_attention_heads",
    "num_layers",
    "num_single_layers",
    "in_channels",
    "guidance_embeds",
}
TAKES = NEEDS | {"axes_dims_rope"}
# keys of other families, and the one value that says what FLUX.1 has
FIXED = {"qk_norm": True, "mlp_ratio": MLP_RATIO}


def transformer_config(model: Mapping[str, Any]) -> Flux1Config:
    """Read `model.transformer`; the text's widths follow from `model.text_encoder`.

    A Fill model's tokens carry, beside the noisy latents, those of the masked picture and the mask
    of every pixel.

    Raises:
        ValueError: The sizes contradict each other or ask for what FLUX.1 does not have.
    """
    given = _transformer_section(model)
    dim, heads = given.pop("hidden_size"), given["num_attention_heads"]
    if dim % heads:
        raise ValueError(
            f"model.transformer.hidden_size {dim!r} does not divide into num_attention_heads "
            f"{heads!r}: change either"
        )
    vae = _vae_section(model)
    channels = PATCH**2 * vae["latent_channels"]
    if given["in_channels"] != channels:
        raise ValueError(
            f"model.transformer.in_channels {given['in_channels']!r} must be 4 * "
            f"model.vae.latent_channels = {channels!r}, the channels of 2x2 patches: change either"
        )
    if _variant(model) == "fill":
        pixels = PATCH * 2 ** (len(vae["block_out_channels"]) - 1)  # along a side of a token
        given |= {"in_channels": 2 * channels + pixels**2, "out_channels": channels}
    encoders = model.get("text_encoder") or {}
    context, pooled = encoders.get("t5") or {}, encoders.get("clip_l") or {}
    values = {
        "attention_head_dim": dim // heads,
        "joint_attention_dim": context.get("hidden_size", CONTEXT_DIM),
        "pooled_projection_dim": pooled.get("hidden_size", POOLED_DIM),
    }
    return Flux1Config.from_dict({**given, **values})


def _transformer_section(model: Mapping[str, Any]) -> dict[str, Any]:
    """Take the keys that are not null, and check that they are the ones FLUX.1 has."""
    given = {k: v for k, v in (model.get("transformer") or {}).items() if v is not None}
    for name, only in FIXED.items():
        if (value := given.pop(name, only)) != only:
            raise ValueError(
                f"model.transformer.{name}: {value!r} is not possible, FLUX.1 has {only!r}: "
                "leave the key out"
            )
    missing, unknown = sorted(NEEDS - given.keys()), sorted(given.keys() - TAKES)
    if missing or unknown:
        raise ValueError(
            f"model.transformer: missing are {missing!r}, unknown are {unknown!r}; FLUX.1 takes "
            f"{sorted(TAKES)!r}"
        )
    return given


def _vae_section(model: Mapping[str, Any]) -> dict[str, Any]:
    given = {k: v for k, v in (model.get("vae") or {}).items() if v is not None}
    return {**VAE, **given}


def _variant(model: Mapping[str, Any]) -> str:
    variant = model.get("variant") or "dev"
    if variant not in PIPELINES:
        raise ValueError(
            f"model.variant: unknown name {variant!r}; FLUX.1 has {sorted(PIPELINES)!r}: use one"
        )
    return variant


def autoencoder_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Read `model.vae` as the config.json of an AutoencoderKL without quantising convolutions."""
    sizes = _vae_section(model)
    levels = len(sizes["block_out_channels"])
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": LAYOUT_VERSION,
        "act_fn": "silu",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": True,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "force_upcast": True,  # the released weights overflow in float16
        "sample_size": 1024,
        **sizes,
    }


def scheduler_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Give scheduler_config.json as released: the shift grows with the picture, but for schnell."""
    is_schnell = _variant(model) == "schnell"
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": LAYOUT_VERSION,
        "num_train_timesteps": 1000,
        "shift": 1.0 if is_schnell else 3.0,
        "use_dynamic_shifting": not is_schnell,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    }


def model_index(model: Mapping[str, Any]) -> dict[str, Any]:
    """Give model_index.json: which class reads which folder."""
    return {
        "_class_name": PIPELINES[_variant(model)],
        "_diffusers_version": LAYOUT_VERSION,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
