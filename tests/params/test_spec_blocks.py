"""Every YAML block that the specification prints loads as it stands."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

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


@pytest.mark.parametrize("name", ["sdxl", "flux", "sd3"])
def test_a_model_preset_is_the_printed_block(name: str) -> None:
    assert document.load(PRESETS / f"models/{name}.yaml") == document.parse(BLOCKS[name], name)


@pytest.mark.parametrize("name", ["lora", "dreambooth", "controlnet"])
def test_a_method_preset_is_the_printed_block(name: str) -> None:
    assert document.load(PRESETS / f"training/{name}.yaml") == document.parse(BLOCKS[name], name)


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
