"""From the pipeline's parameters (`model:` in params.yaml) to the configurations of SD3.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelzoo.checkpoints.config import LAYOUT_VERSION
from modelzoo.sd3.config import SD3Config
from modelzoo.sections import check_token_channels, kl_config, transformer_section, variant_of

# what the variants differ in beside their widths
VARIANTS: dict[str, dict[str, Any]] = {
    "large": {"pos_embed_max_size": 192, "dual_attention_layers": []},
    "large-turbo": {"pos_embed_max_size": 192, "dual_attention_layers": []},
    "medium": {"pos_embed_max_size": 384, "dual_attention_layers": list(range(13))},
}
PATCH_SIZE = 2
SAMPLE_SIZE = 128  # latent cells along a side of a picture as released
TEXT_DIMS = {"clip_l": 768, "clip_g": 1280, "t5": 4096}  # of the released text encoders

NEEDS = {"hidden_size", "num_attention_heads", "num_layers", "in_channels"}
TAKES = NEEDS | {"pos_embed_max_size", "dual_attention_layers"}
# keys of other families, and the one value that says what SD3.5 has
FIXED = {
    "num_single_layers": 0,
    "guidance_embeds": False,
    "qk_norm": True,
    "mlp_ratio": 4.0,
    "axes_dims_rope": None,
}


def transformer_config(model: Mapping[str, Any]) -> SD3Config:
    """Read `model.transformer`; the text's widths follow from `model.text_encoder`.

    A model without a variant is a Medium, as the sizes that the specification prints.

    Raises:
        ValueError: The sizes contradict each other or ask for what SD3.5 does not have.
    """
    given = transformer_section(model, "SD3.5", NEEDS, TAKES, FIXED)
    dim, heads = given["hidden_size"], given["num_attention_heads"]
    latent_channels = (model.get("vae") or {}).get("latent_channels", given["in_channels"] // 4)
    check_token_channels(given, latent_channels)
    context_dim, pooled_dim = _text_dims(model)
    sizes = {**VARIANTS[variant_of(model, "medium", VARIANTS, "SD3.5")], **given}
    return SD3Config(
        # what a diffusers pipeline draws unasked: no more than there are places for
        sample_size=min(SAMPLE_SIZE, PATCH_SIZE * sizes["pos_embed_max_size"]),
        patch_size=PATCH_SIZE,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=sizes["num_layers"],
        attention_head_dim=dim // heads,
        num_attention_heads=heads,
        joint_attention_dim=context_dim,
        caption_projection_dim=dim,
        pooled_projection_dim=pooled_dim,
        pos_embed_max_size=sizes["pos_embed_max_size"],
        dual_attention_layers=tuple(sizes["dual_attention_layers"]),
        qk_norm="rms_norm",
    )


def _text_dims(model: Mapping[str, Any]) -> tuple[int, int]:
    """Give the widths of a context token and of the pooled text.

    A text encoder that the parameters do not name has its released width.
    """
    given = {k: v or {} for k, v in (model.get("text_encoder") or {}).items()}
    dims = {k: given.get(k, {}).get("hidden_size", released) for k, released in TEXT_DIMS.items()}
    clips = dims["clip_l"] + dims["clip_g"]
    if dims["t5"] < clips:
        raise ValueError(
            f"model.text_encoder.t5.hidden_size {dims['t5']!r} must be at least that of clip_l "
            f"plus that of clip_g, {clips!r}, because CLIP's tokens are padded to T5's width: "
            "change either"
        )
    projected = (given.get(k, {}).get("projection_dim") or dims[k] for k in ("clip_l", "clip_g"))
    return dims["t5"], sum(projected)


def autoencoder_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Read `model.vae` as the config.json of an AutoencoderKL without quantising convolutions.

    Left out, scaling_factor and shift_factor are the released ones; no shift is 0.0.
    """
    released = {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    return kl_config(model, released, quant_convs=False)


def scheduler_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Give scheduler_config.json as released: rectified flow with a static shift of 3."""
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": LAYOUT_VERSION,
        "num_train_timesteps": 1000,
        "shift": 3.0,
    }


def model_index(model: Mapping[str, Any]) -> dict[str, Any]:
    """Give model_index.json: which class reads which folder."""
    return {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": LAYOUT_VERSION,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
