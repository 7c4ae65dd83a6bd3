"""Every YAML block that the specification prints loads as it stands, and every model builds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from modelzoo.autoencoders import Autoencoder, init_autoencoder
from modelzoo.families import family
from stages.params import document, schema
from stages.params.compose import load_config
from stages.params.config import Config

PRESETS = Path(__file__).parents[2] / "params"
BLOCKS = {
    "sdxl": """
model:
  type: "sdxl"
  unet:
    in_channels: 4
    model_channels: 320
    attention_resolutions: [4, 2, 1]
    transformer_depth: [1, 2, 10, 10]
    context_dim: 2048
  vae:
    latent_channels: 4
    scaling_factor: 0.13025
  text_encoder:
    clip_l: { hidden_size: 768, num_layers: 12 }
    clip_g: { hidden_size: 1280, num_layers: 32 }
  scheduler:
    type: "ddpm"
    prediction_type: "epsilon"
""",
    "flux": """
model:
  type: "flux"
  variant: "dev"
  transformer:
    hidden_size: 3072
    num_attention_heads: 24
    num_layers: 19
    num_single_layers: 38
    in_channels: 64  # 16 latent channels * 4
    guidance_embeds: true
  vae:
    latent_channels: 16
    scaling_factor: 0.3611
    shift_factor: 0.1159
  text_encoder:
    t5: { hidden_size: 4096, num_layers: 24 }
    clip_l: { hidden_size: 768, num_layers: 12 }
  scheduler:
    type: "flow_matching"
""",
    "flux2": """
model:
  type: "flux2"
  variant: "dev"
  transformer:
    hidden_size: 3072
    num_attention_heads: 24
    num_layers: 8
    num_single_layers: 48
    in_channels: 128  # 32 latent channels * 4
    qk_norm: true
    guidance_embeds: true
  vae:
    latent_channels: 32
    scaling_factor: 0.3611
    shift_factor: 0.1159
""",
    "sd3": """
model:
  type: "sd3"
  transformer:
    hidden_size: 1536
    num_attention_heads: 24
    num_layers: 24
    in_channels: 64  # 16 latent channels * 4
  vae:
    latent_channels: 16
    scaling_factor: 1.5305
  text_encoder:
    t5: { hidden_size: 4096 }
    clip_l: { hidden_size: 768 }
    clip_g: { hidden_size: 1280 }
""",
    "lora": """
training:
  method: "lora"
  lora:
    rank: 32
    alpha: 32
    dropout: 0.0
    target_modules: ["to_q", "to_k", "to_v", "to_out.0"]
    train_text_encoder: false
""",
    "full_finetune": """
training:
  method: "full_finetune"
  optimizer:
    type: "adamw"
    lr: 1.0e-5
""",
    "dreambooth": """
training:
  method: "dreambooth"
  dreambooth:
    instance_prompt: "a photo of sks dog"
    class_prompt: "a photo of dog"
    num_class_images: 200
    prior_preservation_weight: 1.0
""",
    "controlnet": """
training:
  method: "controlnet"
  controlnet:
    conditioning_type: "canny"
    conditioning_scale: 1.0
""",
    "experiment": """
# configs/experiments/my_experiment.yaml
_base_:
  - ../models/flux.yaml
  - ../training/lora.yaml

experiment:
  name: "flux-lora-character"
  output_dir: "./outputs/flux_lora"
  seed: 42

model:
  pretrained_path: "/path/to/flux"
  dtype: "bfloat16"

training:
  epochs: 50
  batch_size: 2
  gradient_accumulation: 4
  learning_rate: 1.0e-4

data:
  train_path: "/path/to/dataset"
  resolution: 1024
  cache_latents: true

hardware:
  mixed_precision: "bf16"
  gradient_checkpointing: true
""",
    "bucketing": """
data:
  resolution: 1024
  bucket_resolution_steps: 64  # Enable bucketing
  min_bucket_resolution: 512
  max_bucket_resolution: 2048
""",
    "caching": """
data:
  cache_latents: true
  cache_dir: "./cache"
""",
}


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    """A folder of experiments beside the project's own presets."""
    shutil.copytree(PRESETS, tmp_path / "params")
    return tmp_path / "params" / "experiments"


def assert_holds(printed: Any, loaded: Any) -> None:
    if isinstance(printed, dict):
        for name, value in printed.items():
            if name != "_base_":
                assert_holds(value, loaded[name])
    else:
        assert printed == loaded


@pytest.mark.parametrize("name", BLOCKS)
def test_a_printed_block_loads_with_the_values_it_prints(name: str, experiments: Path) -> None:
    (experiments / "printed.yaml").write_text(BLOCKS[name])
    config = load_config(experiments / "printed.yaml")
    assert_holds(document.parse(BLOCKS[name], name), OmegaConf.to_container(config))


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_a_model_preset_holds_what_is_printed(name: str) -> None:
    preset = OmegaConf.to_container(load_config(PRESETS / f"models/{name}.yaml"))
    assert_holds(document.parse(BLOCKS[name], name), preset)


def test_the_preset_of_sdxl_differs_from_what_is_printed_where_the_release_does() -> None:
    printed = document.parse(BLOCKS["sdxl"], "sdxl")["model"]
    assert printed["unet"].pop("attention_resolutions") == [4, 2, 1]
    assert printed["unet"].pop("transformer_depth") == [1, 2, 10, 10]
    config = load_config(PRESETS / "models/sdxl.yaml")
    assert_holds(printed, OmegaConf.to_container(config.model))
    assert config.model.unet.attention_resolutions == [4, 2]
    assert config.model.unet.transformer_depth == [1, 2, 10]


def built(name: str, experiments: Path) -> tuple[nn.Module, Autoencoder]:
    """The denoiser and the autoencoder of a printed block, on the meta device."""
    (experiments / "printed.yaml").write_text(BLOCKS[name])
    model = OmegaConf.to_container(load_config(experiments / "printed.yaml").model)
    kind = family(name)
    with torch.device("meta"):
        network = kind.denoiser.NETWORK(kind.network_config(model))
        return network, init_autoencoder(kind.autoencoder_config(model), seed=0)


def test_the_printed_sdxl_builds_as_printed(experiments: Path) -> None:
    unet, autoencoder = built("sdxl", experiments)
    assert unet.conv_in.weight.shape == (320, 4, 3, 3)
    depths = [[len(a.transformer_blocks) for a in level.attentions] for level in unet.down_blocks]
    assert depths == [[1, 1], [2, 2], [10, 10]]  # the factors 1, 2 and 4 all attend
    (middle,) = unet.mid_block.attentions
    assert len(middle.transformer_blocks) == 10
    assert middle.transformer_blocks[0].attn2.to_k.in_features == 2048
    assert unet.config.projection_class_embeddings_input_dim == 1280 + 6 * 256  # of clip_g
    assert autoencoder.latent_channels == 4
    assert (autoencoder.config.scaling_factor, autoencoder.shift) == (0.13025, 0)


def test_the_printed_flux_builds_as_printed(experiments: Path) -> None:
    transformer, autoencoder = built("flux", experiments)
    assert transformer.x_embedder.weight.shape == (3072, 64)
    assert transformer.context_embedder.weight.shape == (3072, 4096)
    assert transformer.time_text_embed.text_embedder.linear_1.in_features == 768
    assert transformer.time_text_embed.guidance_embedder is not None
    assert transformer.config.num_attention_heads == 24
    assert blocks_of(transformer) == (19, 38)
    assert autoencoder.latent_channels == 16
    assert (autoencoder.config.scaling_factor, autoencoder.shift) == (0.3611, 0.1159)


def blocks_of(transformer: nn.Module) -> tuple[int, int]:
    return len(transformer.transformer_blocks), len(transformer.single_transformer_blocks)


def test_the_printed_flux2_builds_as_printed(experiments: Path) -> None:
    """Half as wide as FLUX.2 dev; its scale and shift are written as statistics of latents."""
    transformer, autoencoder = built("flux2", experiments)
    assert transformer.x_embedder.weight.shape == (3072, 128)
    assert transformer.context_embedder.weight.shape == (3072, 15360)  # dev's Mistral-3
    assert transformer.time_guidance_embed.guidance_embedder is not None
    assert transformer.config.num_attention_heads == 24
    assert blocks_of(transformer) == (8, 48)
    assert transformer.transformer_blocks[0].attn.norm_q.weight.shape == (128,)  # qk_norm
    assert autoencoder.latent_channels == 4 * 32
    autoencoder.bn.to_empty(device="cpu")
    autoencoder.set_scalar_normalisation(0.3611, 0.1159)
    torch.testing.assert_close(1 / autoencoder.bn.std, torch.full((128, 1, 1), 0.3611))
    torch.testing.assert_close(autoencoder.bn.mean, torch.full((128, 1, 1), 0.1159))


def test_the_printed_sd3_builds_as_printed(experiments: Path) -> None:
    """It has the sizes of Medium. Its in_channels are those of a token, 2 x 2 patches of 16."""
    transformer, autoencoder = built("sd3", experiments)
    patches = transformer.pos_embed.proj
    assert patches.weight.shape == (1536, 16, 2, 2)
    assert patches.weight[0].numel() == transformer.proj_out.out_features == 64
    assert transformer.config.num_attention_heads == 24
    assert len(transformer.transformer_blocks) == 24
    assert transformer.context_embedder.in_features == 4096
    assert transformer.time_text_embed.text_embedder.linear_1.in_features == 768 + 1280
    assert autoencoder.latent_channels == 16
    assert autoencoder.config.scaling_factor == 1.5305
    assert autoencoder.shift == 0.0609  # not printed, so it is the released one


def test_a_printed_model_can_say_that_it_has_no_shift(experiments: Path) -> None:
    block = BLOCKS["sd3"].replace("  vae:\n", "  vae:\n    shift_factor: 0.0\n")
    (experiments / "printed.yaml").write_text(block)
    model = OmegaConf.to_container(load_config(experiments / "printed.yaml").model)
    assert family("sd3").autoencoder_config(model)["shift_factor"] == 0


@pytest.mark.parametrize("name", ["lora", "dreambooth", "controlnet"])
def test_a_method_preset_holds_the_printed_block(name: str) -> None:
    preset, block = document.load(PRESETS / f"training/{name}.yaml"), BLOCKS[name]
    printed = document.parse(block, name)["training"]
    assert {key: preset["training"][key] for key in printed} == printed


def test_the_printed_experiment_takes_model_and_method_from_its_bases(experiments: Path) -> None:
    (experiments / "printed.yaml").write_text(BLOCKS["experiment"])
    config = load_config(experiments / "printed.yaml")
    assert (config.model.transformer.num_layers, config.training.lora.rank) == (19, 32)
    assert config.training.learning_rate == 1.0e-4
    assert config.model.dtype == "bfloat16"


def test_the_optimizers_rate_is_the_learning_rate(experiments: Path) -> None:
    (experiments / "printed.yaml").write_text(BLOCKS["full_finetune"].replace("1.0e-5", "3e-5"))
    assert load_config(experiments / "printed.yaml").training.learning_rate == 3e-5


def test_the_cache_folder_is_the_store(experiments: Path) -> None:
    (experiments / "printed.yaml").write_text(BLOCKS["caching"])
    assert load_config(experiments / "printed.yaml").data.store == "./cache"


@pytest.mark.parametrize("preset", sorted(PRESETS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_composes(preset: Path) -> None:
    config = load_config(preset)
    assert list(config) == list(schema.hints(Config))
