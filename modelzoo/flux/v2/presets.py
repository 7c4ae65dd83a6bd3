"""From the pipeline's parameters (`model:` in params.yaml) to the configurations of FLUX.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelzoo.checkpoints.config import LAYOUT_VERSION
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.sections import check_token_channels, transformer_section

# width of a context token where the parameters name no text encoder: three hidden states each
CONTEXT_DIMS = {
    "dev": 15360,
    "klein-4b": 7680,
    "klein-base-4b": 7680,
    "klein-9b": 12288,
    "klein-base-9b": 12288,
}
DISTILLED = ("klein-4b", "klein-9b")  # drawn in four steps, without guidance
TEXT_LAYERS = {"qwen3": (9, 18, 27), "mistral3": (10, 20, 30)}

NEEDS = {
    "hidden_size",
    "num_attention_heads",
    "num_layers",
    "num_single_layers",
    "in_channels",
    "guidance_embeds",
}
TAKES = NEEDS | {"mlp_ratio", "axes_dims_rope"}


def transformer_config(model: Mapping[str, Any]) -> Flux2Config:
    """Read `model.transformer`; the context's width follows from `model.text_encoder`.

    Raises:
        ValueError: The sizes contradict each other or ask for what FLUX.2 does not have.
    """
    section = transformer_section(model, "FLUX.2", NEEDS, TAKES, {"qk_norm": True})
    dim, heads = section.pop("hidden_size"), section["num_attention_heads"]
    if model.get("vae"):
        check_token_channels(section, model["vae"]["latent_channels"])
    values = {"attention_head_dim": dim // heads, "joint_attention_dim": context_dim(model)}
    return Flux2Config.from_dict({**section, **values})


def context_dim(model: Mapping[str, Any]) -> int:
    """Give the width of a context token: that of the text encoder times the layers taken."""
    for name, layers in TEXT_LAYERS.items():
        if encoder := (model.get("text_encoder") or {}).get(name):
            return encoder["hidden_size"] * len(encoder.get("output_layers") or layers)
    variant = model.get("variant")
    if variant not in CONTEXT_DIMS:
        raise ValueError(
            f"model.variant {variant!r} says nothing about the text encoder; name one of "
            f"{sorted(CONTEXT_DIMS)!r} or give model.text_encoder.qwen3"
        )
    return CONTEXT_DIMS[variant]


def autoencoder_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Read `model.vae` as the config.json of an AutoencoderKLFlux2.

    scaling_factor and shift_factor are no part of it: see `set_scalar_normalisation`.
    """
    apart = ("scaling_factor", "shift_factor")
    given = {k: v for k, v in model["vae"].items() if v is not None and k not in apart}
    levels = len(given.get("block_out_channels", (128, 256, 512, 512)))
    return {
        "_class_name": "AutoencoderKLFlux2",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        **given,
    }


def scheduler_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Give scheduler_config.json as released; the pipeline computes its shift, not base_shift."""
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "_diffusers_version": LAYOUT_VERSION,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": False,
        "shift_terminal": None,
        "stochastic_sampling": False,
        "time_shift_type": "exponential",
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
    }


def model_index(model: Mapping[str, Any]) -> dict[str, Any]:
    """Give model_index.json: which class reads which folder, and for klein that CFG is wanted."""
    dev = model.get("variant") == "dev"
    index: dict[str, Any] = {
        "_class_name": "Flux2Pipeline" if dev else "Flux2KleinPipeline",
        "_diffusers_version": LAYOUT_VERSION,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3ForCausalLM"],
        "tokenizer": ["transformers", "Qwen2TokenizerFast"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    }
    if dev:
        index["text_encoder"] = ["transformers", "Mistral3ForConditionalGeneration"]
        index["tokenizer"] = ["transformers", "PixtralProcessor"]
        return index
    return {**index, "is_distilled": model.get("variant") in DISTILLED}
