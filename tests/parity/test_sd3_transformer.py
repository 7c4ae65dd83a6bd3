"""Our SD3.5 transformer and that of diffusers are the same function of the same weights."""

from __future__ import annotations

from dataclasses import asdict

import diffusers
import pytest
import torch

from modelzoo.checkpoints.folder import load_component, load_strict, save_component
from modelzoo.denoiser import init_denoiser, load_denoiser, save_denoiser
from modelzoo.sd3.config import SD3Config
from modelzoo.sd3.embeddings import sine_table
from modelzoo.sd3.model import SD3
from modelzoo.sd3.presets import transformer_config
from modelzoo.sd3.transformer import SD3Transformer2DModel

TINY = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 12,
    "num_attention_heads": 2,
    "joint_attention_dim": 20,
    "caption_projection_dim": 24,
    "pooled_projection_dim": 10,
    "pos_embed_max_size": 12,
    "qk_norm": "rms_norm",
}
LARGE = SD3Config(**TINY)
MEDIUM = SD3Config(**TINY, dual_attention_layers=(0, 1))
both_kinds = pytest.mark.parametrize("config", [LARGE, MEDIUM], ids=["large", "medium"])
# the text's queries in the last block come to nothing
UNUSED = ("transformer_blocks.2.attn.add_q_proj", "transformer_blocks.2.attn.norm_added_q")


def released(variant: str) -> SD3Config:
    dim, layers = {"large": (2432, 38), "medium": (1536, 24)}[variant]
    sizes = {"hidden_size": dim, "num_attention_heads": dim // 64, "num_layers": layers}
    return transformer_config({"variant": variant, "transformer": {**sizes, "in_channels": 64}})


def theirs(config: SD3Config) -> torch.nn.Module:
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    return diffusers.SD3Transformer2DModel(**values)


def both(config: SD3Config):
    torch.manual_seed(0)
    oracle = theirs(config)
    with torch.no_grad():  # norms begin as ones, and a forgotten one would not show
        for parameter in oracle.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return load_strict(SD3Transformer2DModel(config), oracle.state_dict(), "diffusers"), oracle


def batch(height: int = 6, width: int = 10) -> dict[str, torch.Tensor]:
    """Three latents of height x width cells, with seven context tokens."""
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(3, 4, height, width),
        "encoder_hidden_states": torch.randn(3, 7, 20),
        "pooled_projections": torch.randn(3, 10),
        "timestep": torch.tensor([0.0, 370.0, 1000.0]),
    }


def relative(ours: torch.Tensor, oracle: torch.Tensor) -> float:
    return ((ours - oracle).abs().max() / oracle.abs().max()).item()


@both_kinds
@pytest.mark.parametrize("shape", [(6, 10), (24, 4), (2, 2), (14, 24)])
def test_forward_equals_diffusers(config, shape):
    ours, oracle = both(config)
    inputs = batch(*shape)
    assert relative(ours(**inputs), oracle(**inputs, return_dict=False)[0]) < 1e-5


@both_kinds
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_diffusers(config, checkpointing):
    ours, oracle = both(config)
    ours.gradient_checkpointing = checkpointing
    inputs = batch()
    sources = [inputs[k].requires_grad_() for k in inputs if k != "timestep"]
    weights = torch.randn(3, 4, 6, 10)
    (ours(**inputs) * weights).sum().backward()
    found = [source.grad for source in sources]
    for source in sources:
        source.grad = None
    (oracle(**inputs, return_dict=False)[0] * weights).sum().backward()
    for grad, source in zip(found, sources, strict=True):
        assert relative(grad, source.grad) < 1e-4
    expected = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        if name.startswith(UNUSED):
            assert not parameter.grad.any(), name
            assert not expected[name].grad.any(), name
        else:
            assert relative(parameter.grad, expected[name].grad) < 1e-4, name


@both_kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_close_to_float32_as_in_diffusers(config, dtype):
    ours, oracle = both(config)
    inputs = batch()
    exact = oracle(**inputs, return_dict=False)[0]
    low = {k: v.to(dtype) for k, v in inputs.items()}
    out = ours.to(dtype)(**low)
    assert out.dtype == dtype
    spread = (oracle.to(dtype)(**low, return_dict=False)[0] - exact).square().mean().sqrt()
    assert (out - exact).square().mean().sqrt() <= spread


@pytest.mark.parametrize(
    ("variant", "parameters", "stored", "tensors"),
    [
        ("large", 8_056_627_520, 8_146_280_768, 1227),
        ("medium", 2_243_171_520, 2_469_663_936, 909),
    ],
)
def test_released_sizes_have_the_names_and_shapes_of_diffusers(
    variant, parameters, stored, tensors
):
    config = released(variant)
    with torch.device("meta"):
        ours, oracle = SD3Transformer2DModel(config), theirs(config)
    found = {name: (tuple(p.shape), p.dtype) for name, p in ours.state_dict().items()}
    expected = {name: (tuple(p.shape), p.dtype) for name, p in oracle.state_dict().items()}
    assert found == expected
    assert len(found) == tensors
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert sum(p.numel() for p in ours.state_dict().values()) == stored


@pytest.mark.parametrize(("max_size", "unit"), [(12, 8), (24, 64), (192, 64)])
def test_places_are_those_of_diffusers_to_the_bit(max_size, unit):
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    expected = get_2d_sincos_pos_embed(24, max_size, base_size=unit, output_type="pt").float()
    assert torch.equal(sine_table(24, max_size, unit).flatten(0, 1), expected)


def test_an_untrained_network_has_the_places_of_diffusers():
    ours = init_denoiser(SD3, MEDIUM, seed=0).network.state_dict()
    name = "pos_embed.pos_embed"
    assert torch.equal(ours[name], theirs(MEDIUM).state_dict()[name])


def test_stored_places_are_used_and_not_computed_anew():
    """A checkpoint may hold others, as those that were trained at higher resolutions do."""
    ours, oracle = both(LARGE)
    with torch.no_grad():
        for network in (ours, oracle):
            network.pos_embed.pos_embed.mul_(0.5)
    inputs = batch()
    assert relative(ours(**inputs), oracle(**inputs, return_dict=False)[0]) < 1e-5
    assert relative(both(LARGE)[0](**inputs), ours(**inputs)) > 1e-3


def test_a_key_missing_in_a_file_means_what_it_means_to_diffusers():
    sizes = {"num_layers": 1, "qk_norm": "rms_norm"}
    with torch.device("meta"):
        oracle = diffusers.SD3Transformer2DModel(**sizes).config
    for name, value in asdict(SD3Config(**sizes)).items():
        assert oracle[name] == value, name


@both_kinds
def test_diffusers_reads_our_folder(config, tmp_path):
    ours, _ = both(config)
    save_denoiser(SD3(ours), tmp_path)
    oracle = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path, local_files_only=True)
    inputs = batch()
    assert relative(ours(**inputs), oracle(**inputs, return_dict=False)[0]) < 1e-5
    assert set(oracle.config) >= set(config.to_dict()) - {"_class_name"}


@both_kinds
@pytest.mark.parametrize("shards", ["10GB", "20KB"])
def test_we_read_the_folder_of_diffusers(config, shards, tmp_path):
    _, oracle = both(config)
    oracle.save_pretrained(tmp_path, max_shard_size=shards)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shards == "20KB"
    ours = load_denoiser(SD3, tmp_path)
    assert ours.config == config
    inputs = batch()
    expected = oracle(**inputs, return_dict=False)[0]
    assert relative(ours.network(**inputs), expected) < 1e-5


def test_diffusers_reads_our_shards(tmp_path):
    ours, _ = both(MEDIUM)
    save_component(ours.state_dict(), MEDIUM.to_dict(), tmp_path, max_shard_bytes=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    oracle = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path, local_files_only=True)
    state = oracle.state_dict()
    assert all(torch.equal(state[k], v) for k, v in load_component(tmp_path)[1].items())
