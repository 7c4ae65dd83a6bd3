"""Presets of released checkpoints are those checkpoints: sizes, counts, text encoders, sampling."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf

from modelzoo.autoencoders import init_autoencoder
from modelzoo.create import create_model
from modelzoo.families import family
from modelzoo.process.defaults import DEFAULTS, SamplingDefaults
from modelzoo.text_encoders import text_lengths
from modelzoo.text_encoders.configs import text_part_configs
from stages.params.compose import load_config

MODELS = Path(__file__).parents[2] / "params" / "models"

# what the released config.json say
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX1 = {
    "_class_name": "FluxTransformer2DModel",
    "patch_size": 1,
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
SCHNELL = {**FLUX1, "guidance_embeds": False}
FILL = {**FLUX1, "in_channels": 384, "out_channels": 64}
FLUX2 = {
    "_class_name": "Flux2Transformer2DModel",
    "patch_size": 1,
    "in_channels": 128,
    "out_channels": None,
    "num_layers": 8,
    "num_single_layers": 48,
    "attention_head_dim": 128,
    "num_attention_heads": 48,
    "joint_attention_dim": 15360,
    "timestep_guidance_channels": 256,
    "mlp_ratio": 3.0,
    "axes_dims_rope": [32, 32, 32, 32],
    "rope_theta": 2000,
    "eps": 1e-6,
    "guidance_embeds": True,
}
KLEIN_4B = {
    **FLUX2,
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
KLEIN_9B = {
    **FLUX2,
    "num_single_layers": 24,
    "num_attention_heads": 32,
    "joint_attention_dim": 12288,
    "guidance_embeds": False,
}
LARGE = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 38,
    "attention_head_dim": 64,
    "num_attention_heads": 38,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 2432,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "dual_attention_layers": [],
    "qk_norm": "rms_norm",
}
MEDIUM = {
    **LARGE,
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 384,
    "dual_attention_layers": list(range(13)),
}
VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32}
# by type: config.json of the VAE, its parameters, and values in its buffers
VAES: dict[str, tuple[dict[str, Any], int, int]] = {
    "sdxl": (
        {**VAE, "latent_channels": 4, "use_quant_conv": True, "scaling_factor": 0.13025},
        83_653_863,
        0,
    ),
    "flux": (
        {
            **VAE,
            "latent_channels": 16,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
        },
        83_819_683,
        0,
    ),
    "flux2": (
        {
            **VAE,
            "latent_channels": 32,
            "use_quant_conv": True,
            "use_post_quant_conv": True,
            "batch_norm_eps": 1e-4,
            "patch_size": [2, 2],
        },
        84_046_115,
        257,
    ),
    "sd3": (
        {
            **VAE,
            "latent_channels": 16,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
        },
        83_819_683,
        0,
    ),
}
CLIP_L, CLIP_G, T5 = (768, 12), (1280, 32), (4096, 24)  # width and layers
MISTRAL3, QWEN3_4B, QWEN3_8B = (5120, 40), (2560, 36), (4096, 36)


class Released(NamedTuple):
    """A checkpoint."""

    type: str
    variant: str
    config: dict[str, Any]
    parameters: int
    text: dict[str, tuple[int, int]]  # width and layers by kind
    lengths: dict[str, int]  # tokens a caption
    buffers: int = 0


BOTH_CLIPS = {"clip_l": CLIP_L, "clip_g": CLIP_G}
BOTH_CLIPS_TOKENS = {"clip_l": 77, "clip_g": 77}
FLUX1_TEXT = {"clip_l": CLIP_L, "t5": T5}
SD3_TEXT, SD3_TOKENS = {**BOTH_CLIPS, "t5": T5}, {**BOTH_CLIPS_TOKENS, "t5": 256}
QWEN3_TOKENS = {"qwen3": 512}


def flux1(variant: str, config: dict[str, Any], parameters: int, t5_tokens: int = 512) -> Released:
    tokens = {"clip_l": 77, "t5": t5_tokens}
    return Released("flux", variant, config, parameters, FLUX1_TEXT, tokens)


def klein(variant: str, config: dict[str, Any], parameters: int, qwen3: tuple) -> Released:
    return Released("flux2", variant, config, parameters, {"qwen3": qwen3}, QWEN3_TOKENS)


def sd3(variant: str, config: dict[str, Any], parameters: int, positions: int) -> Released:
    return Released("sd3", variant, config, parameters, SD3_TEXT, SD3_TOKENS, positions)


RELEASED = {
    "sdxl": Released("sdxl", "base-1.0", UNET, 2_567_463_684, BOTH_CLIPS, BOTH_CLIPS_TOKENS),
    "flux1_dev": flux1("dev", FLUX1, 11_901_408_320),
    "flux1_schnell": flux1("schnell", SCHNELL, 11_891_178_560, t5_tokens=256),
    "flux1_kontext": flux1("kontext", FLUX1, 11_901_408_320),
    "flux1_fill": flux1("fill", FILL, 11_902_391_360),
    "flux2_dev": Released(
        "flux2", "dev", FLUX2, 32_223_281_152, {"mistral3": MISTRAL3}, {"mistral3": 512}
    ),
    "flux2_klein_4b": klein("klein-4b", KLEIN_4B, 3_875_544_576, QWEN3_4B),
    "flux2_klein_4b_base": klein("klein-base-4b", KLEIN_4B, 3_875_544_576, QWEN3_4B),
    "flux2_klein_9b": klein("klein-9b", KLEIN_9B, 9_078_581_248, QWEN3_8B),
    "flux2_klein_9b_base": klein("klein-base-9b", KLEIN_9B, 9_078_581_248, QWEN3_8B),
    "sd35_large": sd3("large", LARGE, 8_056_627_520, 192**2 * 2432),
    "sd35_large_turbo": sd3("large-turbo", LARGE, 8_056_627_520, 192**2 * 2432),
    "sd35_medium": sd3("medium", MEDIUM, 2_243_171_520, 384**2 * 1536),
}
SPECIFIED = {"flux": "flux1_dev", "sd3": "sd35_medium"}  # names of the specification
TINY = ("sdxl_tiny", "flux1_tiny", "flux2_tiny", "sd35_tiny")


@cache
def preset(name: str) -> dict[str, Any]:
    return OmegaConf.to_container(load_config(MODELS / f"{name}.yaml"))


def taken(written: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    return {key: written.get(key) for key in facts}


def counts(module: torch.nn.Module) -> tuple[int, int]:
    """Count the values of parameters and of buffers that are stored."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    stored = sum(tensor.numel() for tensor in module.state_dict().values())
    return parameters, stored - parameters


def test_every_preset_is_tested():
    assert {path.stem for path in MODELS.glob("*.yaml")} == {*RELEASED, *SPECIFIED, *TINY}


@pytest.mark.parametrize("name", RELEASED)
def test_the_denoiser_has_the_sizes_and_parameters_of_the_released_one(name):
    model, released = preset(name)["model"], RELEASED[name]
    assert (model["type"], model["variant"], model["dtype"]) == (
        released.type,
        released.variant,
        "bfloat16",
    )
    kind = family(released.type)
    config = kind.network_config(model)
    assert taken(config.to_dict(), released.config) == released.config
    with torch.device("meta"):
        network = kind.denoiser.NETWORK(config)
    assert counts(network) == (released.parameters, released.buffers)


@pytest.mark.parametrize("name", RELEASED)
def test_the_autoencoder_has_the_sizes_and_parameters_of_the_released_one(name):
    model = preset(name)["model"]
    facts, parameters, buffers = VAES[model["type"]]
    with torch.device("meta"):
        autoencoder = init_autoencoder(family(model["type"]).autoencoder_config(model), seed=0)
    config = autoencoder.config.to_dict()
    assert taken(config, facts) == facts
    assert "shift_factor" in facts or config.get("shift_factor") is None
    assert counts(autoencoder) == (parameters, buffers)
    assert autoencoder.spatial_factor == (16 if model["type"] == "flux2" else 8)


@pytest.mark.parametrize("name", RELEASED)
def test_the_text_encoders_are_the_released_ones(name):
    model, released = preset(name)["model"], RELEASED[name]
    configs = text_part_configs({**model, "from_scratch": {"vocab_size": 1000}})
    assert {kind: width_and_layers(config) for kind, config in configs.items()} == released.text
    assert text_lengths(model) == released.lengths


def width_and_layers(config: dict[str, Any]) -> tuple[int, int]:
    sizes = config.get("text_config", config)
    if "d_model" in sizes:
        return sizes["d_model"], sizes["num_layers"]
    return sizes["hidden_size"], sizes["num_hidden_layers"]


@pytest.mark.parametrize(
    ("name", "layers"), [("flux2_dev", [10, 20, 30]), ("flux2_klein_4b", [9, 18, 27])]
)
def test_the_context_of_flux2_is_of_the_released_layers(name, layers):
    model = preset(name)["model"]
    (config,) = text_part_configs({**model, "from_scratch": {"vocab_size": 1000}}).values()
    assert config["diffbase"] == {"output_layers": layers}


@pytest.mark.parametrize("name", RELEASED)
def test_a_preset_samples_as_its_checkpoint_does(name):
    config = preset(name)
    sampling = SamplingDefaults(**taken(config["sample"], dict.fromkeys(SamplingDefaults._fields)))
    assert sampling == DEFAULTS[config["model"]["type"], config["model"]["variant"]]


@pytest.mark.parametrize("name", RELEASED)
def test_a_preset_is_told_guidance_where_its_network_embeds_it(name):
    config = preset(name)
    network = family(config["model"]["type"]).network_config(config["model"])
    assert (config["sample"]["guidance"] is not None) == getattr(network, "guidance_embeds", False)


@pytest.mark.parametrize(("name", "released"), SPECIFIED.items())
def test_a_name_of_the_specification_means_a_released_checkpoint(name, released):
    assert preset(name) == preset(released)


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_preset_predicts_on_latents_of_its_autoencoder(name):
    """Its parts fit: pixels to latents, text widths and latents to a prediction."""
    model = preset(name)["model"]
    autoencoder = init_autoencoder(family(model["type"]).autoencoder_config(model), seed=0).eval()
    latents = autoencoder.encode_rows(torch.rand(2, 3, 32, 64) * 2 - 1)["mean"]
    denoiser = create_model(model)
    config = denoiser.config
    context = getattr(config, "joint_attention_dim", None) or config.cross_attention_dim
    pooled = getattr(config, "pooled_projection_dim", None) or getattr(config, "pooled_dim", 1)
    rows = {
        "context": torch.randn(2, 16, context),
        "pooled": torch.randn(2, pooled),
        "sizes": torch.tensor([[32.0, 64, 0, 0, 32, 64]] * 2),
    }
    with torch.no_grad():
        prediction = denoiser.predict(latents, torch.rand(2), denoiser.conditioning(rows))
        decoded = autoencoder.decode(prediction)
    assert prediction.shape == latents.shape
    assert torch.isfinite(prediction).all()
    assert decoded.shape == (2, 3, 32, 64)
