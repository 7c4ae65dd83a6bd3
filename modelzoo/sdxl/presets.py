"""From the pipeline's parameters (`model:` in params.yaml) to the configurations of SDXL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelzoo.checkpoints.config import LAYOUT_VERSION
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sections import given, kl_config

# `model.unet`, by the names of Stability's configurations; a key left out is SDXL base 1.0's
UNET = {
    "in_channels": 4,
    "model_channels": 320,
    "channel_mult": [1, 2, 4],
    "num_res_blocks": 2,
    "attention_resolutions": [4, 2],
    "transformer_depth": [1, 2, 10],
    "num_head_channels": 64,
    "context_dim": 2048,
    "norm_num_groups": 32,
}
POOLED_DIM = 1280  # of CLIP-G
SIZE_CHANNELS = 256  # of the embedding of each of six sizes


def unet_config(model: Mapping[str, Any]) -> UNetConfig:
    """Read `model.unet`; the pooled text's width follows from `model.text_encoder.clip_g`.

    A level attends where its factor of downsampling (1, 2, 4, ...) is in attention_resolutions; a
    transformer_depth with an entry more than there are levels ends in the mid block's.

    Raises:
        ValueError: The sizes contradict each other.
    """
    section = given(model, "unet")
    if unknown := sorted(section.keys() - UNET.keys()):
        raise ValueError(f"model.unet: unknown are {unknown!r}; SDXL takes {sorted(UNET)!r}")
    sizes = {**UNET, **section}
    _check_channels(model, sizes)
    dims = tuple(sizes["model_channels"] * factor for factor in sizes["channel_mult"])
    depths = tuple(sizes["transformer_depth"])
    attends = _attending_levels(sizes, len(dims), depths)
    reverse = None
    if len(depths) > len(dims):
        depths, mid = depths[:-1], depths[-1]
        if mid != depths[-1]:
            reverse = depths[::-1]
            depths = (*depths, mid)
    return UNetConfig(
        in_channels=sizes["in_channels"],
        out_channels=sizes["in_channels"],
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
        block_out_channels=dims,
        layers_per_block=sizes["num_res_blocks"],
        transformer_layers_per_block=depths,
        attention_head_dim=_heads(dims, attends, sizes["num_head_channels"]),
        cross_attention_dim=sizes["context_dim"],
        projection_class_embeddings_input_dim=_pooled_dim(model) + 6 * SIZE_CHANNELS,
        addition_time_embed_dim=SIZE_CHANNELS,
        norm_num_groups=sizes["norm_num_groups"],
        reverse_transformer_layers_per_block=reverse,
    )


def _check_channels(model: Mapping[str, Any], sizes: Mapping[str, Any]) -> None:
    """Hold the UNet's channels against those of the autoencoder and the text encoders."""
    channels = (model.get("vae") or {}).get("latent_channels", sizes["in_channels"])
    if sizes["in_channels"] != channels:
        raise ValueError(
            f"model.unet.in_channels {sizes['in_channels']!r} must be model.vae.latent_channels "
            f"{channels!r}: change either"
        )
    encoders = [(model.get("text_encoder") or {}).get(name) for name in ("clip_l", "clip_g")]
    if all(encoders):
        width = sum(encoder["hidden_size"] for encoder in encoders if encoder)
        if sizes["context_dim"] != width:
            raise ValueError(
                f"model.unet.context_dim {sizes['context_dim']!r} must be the hidden_size of "
                f"clip_l plus that of clip_g in model.text_encoder, {width}: change either"
            )


def _attending_levels(
    sizes: Mapping[str, Any], levels: int, depths: tuple[int, ...]
) -> tuple[bool, ...]:
    """Tell for each level whether it attends, and check the depths."""
    factors, wanted = [2**level for level in range(levels)], sizes["attention_resolutions"]
    if surplus := sorted(set(wanted) - set(factors)):
        raise ValueError(
            f"model.unet.attention_resolutions {wanted!r}: {surplus!r} are no factors of a level; "
            f"the {levels} levels of channel_mult have {factors!r}"
        )
    if len(depths) not in (levels, levels + 1):
        raise ValueError(
            f"model.unet.transformer_depth {list(depths)!r} must have one entry for each of the "
            f"{levels} levels of channel_mult, and may have one more for the mid block"
        )
    attends = tuple(factor in wanted for factor in factors)
    needed = [depth for depth, attend in zip(depths, attends, strict=False) if attend]
    if min([*needed, depths[-1]]) < 1:
        raise ValueError(
            f"model.unet.transformer_depth {list(depths)!r} must be at least 1 for the mid block "
            f"(the last entry) and where attention_resolutions {wanted!r} names a level: change "
            "either"
        )
    return attends


def _heads(dims: tuple[int, ...], attends: tuple[bool, ...], head_dim: int) -> tuple[int, ...]:
    """Count the heads of each level; a level without attention has a number that nothing reads."""
    attending = {*(dim for dim, attend in zip(dims, attends, strict=True) if attend), dims[-1]}
    if undivided := sorted(dim for dim in attending if dim % head_dim):
        raise ValueError(
            f"model.unet.num_head_channels {head_dim!r} does not divide {undivided!r}, channels of "
            "levels that attend: change either"
        )
    return tuple(max(dim // head_dim, 1) for dim in dims)


def _pooled_dim(model: Mapping[str, Any]) -> int:
    """Give the width of the pooled text: CLIP-G projects to its own width."""
    clip_g = (model.get("text_encoder") or {}).get("clip_g")
    return clip_g["hidden_size"] if clip_g else POOLED_DIM


def autoencoder_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Read `model.vae` as the config.json of an AutoencoderKL with quantising convolutions."""
    return kl_config(model, {"latent_channels": 4, "scaling_factor": 0.13025}, quant_convs=True)


def scheduler_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Give scheduler_config.json as released, with the prediction that the parameters name."""
    given = model.get("scheduler") or {}
    return {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": LAYOUT_VERSION,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": given.get("prediction_type") or "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    }


def model_index(model: Mapping[str, Any]) -> dict[str, Any]:
    """Give model_index.json: which class reads which folder, and how no prompt is encoded."""
    return {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": LAYOUT_VERSION,
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
