"""From the pipeline's parameters (`model:` in params.yaml) to the configurations of FLUX.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelzoo.checkpoints.config import LAYOUT_VERSION
from modelzoo.flux.v1.config import MLP_RATIO, Flux1Config
from modelzoo.flux.v1.latents import PATCH
from modelzoo.sections import check_token_channels, kl_config, transformer_section, variant_of

PIPELINES = {
    "dev": "FluxPipeline",
    "schnell": "FluxPipeline",
    "kontext": "FluxKontextPipeline",
    "fill": "FluxFillPipeline",
}
CONTEXT_DIM = 4096  # of T5 XXL
POOLED_DIM = 768  # of CLIP-L
VAE = {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
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
    section = transformer_section(model, "FLUX.1", NEEDS, TAKES, FIXED)
    dim, heads = section.pop("hidden_size"), section["num_attention_heads"]
    vae = autoencoder_config(model)
    check_token_channels(section, vae["latent_channels"])
    channels = section["in_channels"]
    if variant_of(model, "dev", PIPELINES, "FLUX.1") == "fill":
        pixels = PATCH * 2 ** (len(vae["block_out_channels"]) - 1)  # along a side of a token
        section |= {"in_channels": 2 * channels + pixels**2, "out_channels": channels}
    encoders = model.get("text_encoder") or {}
    context, pooled = encoders.get("t5") or {}, encoders.get("clip_l") or {}
    values = {
        "attention_head_dim": dim // heads,
        "joint_attention_dim": context.get("hidden_size", CONTEXT_DIM),
        "pooled_projection_dim": pooled.get("hidden_size", POOLED_DIM),
    }
    return Flux1Config.from_dict({**section, **values})


def autoencoder_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Read `model.vae` as the config.json of an AutoencoderKL without quantising convolutions."""
    return kl_config(model, VAE, quant_convs=False)


def scheduler_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Give scheduler_config.json as released: the shift grows with the picture, but for schnell."""
    is_schnell = variant_of(model, "dev", PIPELINES, "FLUX.1") == "schnell"
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
        "_class_name": PIPELINES[variant_of(model, "dev", PIPELINES, "FLUX.1")],
        "_diffusers_version": LAYOUT_VERSION,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
