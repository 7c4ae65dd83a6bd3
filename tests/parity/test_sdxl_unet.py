"""Our SDXL UNet and that of diffusers are the same function of the same weights."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import pytest
import torch

from modelzoo.checkpoints.folder import load_strict, read_config, save_component
from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sdxl.model import SDXL
from modelzoo.sdxl.presets import unet_config
from modelzoo.sdxl.unet import UNet2DConditionModel

BASE = UNetConfig(
    block_out_channels=(8, 16, 32),
    attention_head_dim=(1, 2, 4),
    transformer_layers_per_block=(1, 1, 2),
    norm_num_groups=4,
    cross_attention_dim=20,
    addition_time_embed_dim=6,
    projection_class_embeddings_input_dim=36 + 10,
)
# attention on every level and a depth of its own at the bottom, as the spec's block allows
DEEP = replace(
    BASE,
    down_block_types=("CrossAttnDownBlock2D",) * 3,
    up_block_types=("CrossAttnUpBlock2D",) * 3,
    transformer_layers_per_block=(1, 2, 1, 3),
    reverse_transformer_layers_per_block=(1, 2, 1),
)
# two levels of equal sizes are still two levels
EQUAL = replace(
    BASE,
    block_out_channels=(8, 16, 16),
    attention_head_dim=(1, 2, 2),
    transformer_layers_per_block=(1, 1, 1),
    layers_per_block=1,
)
CONFIGS = pytest.mark.parametrize(
    "config", [BASE, DEEP, EQUAL], ids=["base", "deep", "equal levels"]
)


def theirs(config: UNetConfig) -> torch.nn.Module:
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    return diffusers.UNet2DConditionModel(**values)


def both(config: UNetConfig = BASE):
    torch.manual_seed(0)
    oracle = theirs(config)
    return load_strict(UNet2DConditionModel(config), oracle.state_dict(), "diffusers"), oracle


def batch(height: int = 8, width: int = 8):
    """Three pictures with seven context tokens."""
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(3, 4, height, width),
        "encoder_hidden_states": torch.randn(3, 7, 20),
        "pooled_projections": torch.randn(3, 10),
        "timestep": torch.tensor([0.0, 371.0, 999.0]),
        "time_ids": torch.randint(0, 2000, (3, 6)).float(),
    }


def asked(oracle: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Call diffusers' network with our inputs."""
    pooled, sizes = inputs["pooled_projections"], inputs["time_ids"]
    return oracle(
        inputs["hidden_states"],
        inputs["timestep"],
        inputs["encoder_hidden_states"],
        added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        return_dict=False,
    )[0]


def relative(ours: torch.Tensor, oracle: torch.Tensor) -> float:
    return ((ours - oracle).abs().max() / oracle.abs().max()).item()


@CONFIGS
@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (16, 4), (9, 7), (1, 3)])
def test_forward_equals_diffusers_for_any_size(config, shape):
    """Odd sides too: the way down rounds up, and the way up must meet the same sizes again."""
    ours, oracle = both(config)
    inputs = batch(*shape)
    assert relative(ours(**inputs), asked(oracle, inputs)) < 1e-5


@CONFIGS
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_diffusers(config, checkpointing):
    ours, oracle = both(config)
    ours.gradient_checkpointing = checkpointing
    inputs = batch(5, 6)
    weights = torch.randn(3, 4, 5, 6)
    context = inputs["encoder_hidden_states"].requires_grad_()
    (ours(**inputs) * weights).sum().backward()
    context_grad, context.grad = context.grad, None
    (asked(oracle, inputs) * weights).sum().backward()
    assert relative(context_grad, context.grad) < 1e-4
    expected = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        assert relative(parameter.grad, expected[name].grad) < 1e-4, name


def test_a_prediction_at_every_timestep_is_that_of_diffusers():
    """`predict` takes k / 1000, which float32 cannot hold; the network must see k itself."""
    ours, _ = both()
    seen = []
    ours.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["timestep"]), with_kwargs=True
    )
    inputs = batch(1, 1)
    steps = torch.arange(1001)
    rows = {
        "context": inputs["encoder_hidden_states"][:1].expand(1001, -1, -1),
        "pooled": inputs["pooled_projections"][:1].expand(1001, -1),
        "sizes": inputs["time_ids"][:1].expand(1001, -1),
    }
    denoiser = SDXL(ours)
    noisy = inputs["hidden_states"][:1].expand(1001, -1, -1, -1)
    with torch.no_grad():
        denoiser.predict(noisy, steps / 1000, denoiser.conditioning(rows))
    assert torch.equal(seen[0], steps.float())


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.bfloat16, 1.0), (torch.float16, 1.1)])
def test_low_precision_is_as_close_to_float32_as_diffusers_is(dtype, allowed):
    ours, oracle = both()
    inputs = batch()
    exact = ours(**inputs)
    rounded = {k: v if k in ("timestep", "time_ids") else v.to(dtype) for k, v in inputs.items()}
    out = ours.to(dtype)(**rounded)
    assert out.dtype == dtype
    spread = (asked(oracle.to(dtype), rounded) - exact).norm()
    assert 0 < (out - exact).norm() <= allowed * spread


@pytest.mark.parametrize("config", [UNetConfig(), unet_config({"unet": None})])
def test_the_released_size_has_the_tensors_of_diffusers(config):
    with torch.device("meta"):
        ours, oracle = UNet2DConditionModel(config), theirs(config)
    tensors = {name: (p.shape, p.dtype) for name, p in ours.state_dict().items()}
    assert tensors == {name: (p.shape, p.dtype) for name, p in oracle.state_dict().items()}
    assert len(tensors) == 1680
    assert sum(p.numel() for p in ours.parameters()) == 2_567_463_684


def test_the_block_that_the_specification_prints_is_what_diffusers_builds_of_it():
    printed = {
        "in_channels": 4,
        "model_channels": 320,
        "attention_resolutions": [4, 2, 1],
        "transformer_depth": [1, 2, 10, 10],
        "context_dim": 2048,
    }
    config = unet_config({"unet": printed})
    assert config.transformer_layers_per_block == (1, 2, 10)
    with torch.device("meta"):
        ours, oracle = UNet2DConditionModel(config), theirs(config)
    shapes = {name: p.shape for name, p in ours.state_dict().items()}
    assert shapes == {name: p.shape for name, p in oracle.state_dict().items()}
    for level in ("down_blocks.0.attentions.1", "up_blocks.2.attentions.2"):  # the finest ones
        assert f"{level}.transformer_blocks.0.attn1.to_q.weight" in shapes


def test_a_key_missing_in_a_file_means_what_it_means_to_diffusers():
    """Left out, these give the same network to diffusers; all others we ask for."""
    with torch.device("meta"):
        defaults = diffusers.UNet2DConditionModel().config
    written = UNetConfig().to_dict()
    for name in written.keys() - {"_class_name", "_diffusers_version", "sample_size"}:
        without = {k: v for k, v in written.items() if k != name}
        if (defaults[name] or None) == (written[name] or None):
            assert UNetConfig.from_dict(without) == UNetConfig()
        else:
            with pytest.raises(ValueError, match=name):
                UNetConfig.from_dict(without)


@CONFIGS
def test_diffusers_reads_our_folder(config, tmp_path):
    ours, _ = both(config)
    save_denoiser(SDXL(ours), tmp_path)
    oracle = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, local_files_only=True)
    inputs = batch()
    assert relative(ours(**inputs), asked(oracle, inputs)) < 1e-5
    written = {k for k in read_config(tmp_path) if not k.startswith("_")}
    assert written == {k for k in oracle.config if not k.startswith("_")}


@CONFIGS
def test_we_read_the_folder_of_diffusers(config, tmp_path):
    _, oracle = both(config)
    oracle.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = load_denoiser(SDXL, tmp_path)
    assert ours.config == config
    inputs = batch()
    assert relative(ours.network(**inputs), asked(oracle, inputs)) < 1e-5


def test_diffusers_reads_our_shards(tmp_path):
    ours, _ = both()
    save_component(ours.state_dict(), BASE.to_dict(), tmp_path, max_shard_bytes=60_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    oracle = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, local_files_only=True)
    state = ours.state_dict()
    assert all(torch.equal(state[k], v) for k, v in oracle.state_dict().items())
