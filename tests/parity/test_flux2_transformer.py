"""Our FLUX.2 transformer and that of diffusers are the same function of the same weights."""

from __future__ import annotations

from dataclasses import asdict

import diffusers
import pytest
import torch

from modelzoo.checkpoints.folder import load_component, load_strict, save_component
from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.flux.components.positions import image_positions, reference_positions
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2
from modelzoo.flux.v2.positions import REFERENCE_STEP, text_positions
from modelzoo.flux.v2.transformer import Flux2Transformer2DModel

TINY = {
    "in_channels": 8,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 20,
    "axes_dims_rope": (4, 4, 4, 4),
}
KLEIN = Flux2Config(**TINY, guidance_embeds=False)
DEV = Flux2Config(**TINY, guidance_embeds=True)
KLEIN_4B = Flux2Config(
    num_layers=5,
    num_single_layers=20,
    num_attention_heads=24,
    joint_attention_dim=7680,
    guidance_embeds=False,
)
KLEIN_9B = Flux2Config(
    num_layers=8,
    num_single_layers=24,
    num_attention_heads=32,
    joint_attention_dim=12288,
    guidance_embeds=False,
)
CPU = torch.device("cpu")


def theirs(config: Flux2Config) -> torch.nn.Module:
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    return diffusers.Flux2Transformer2DModel(**values)


def both(config: Flux2Config):
    torch.manual_seed(0)
    oracle = theirs(config)
    return load_strict(Flux2Transformer2DModel(config), oracle.state_dict(), "diffusers"), oracle


def batch(config: Flux2Config, height: int = 3, width: int = 5):
    """Three pictures of height x width cells, with seven context tokens."""
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(3, height * width, config.in_channels),
        "encoder_hidden_states": torch.randn(3, 7, config.joint_attention_dim),
        "timestep": torch.tensor([0.0, 0.37, 1.0]),
        "img_ids": image_positions(height, width, CPU),
        "txt_ids": text_positions(7, CPU),
        "guidance": torch.tensor([1.0, 3.5, 4.0]) if config.guidance_embeds else None,
    }


def relative(ours: torch.Tensor, oracle: torch.Tensor) -> float:
    return ((ours - oracle).abs().max() / oracle.abs().max()).item()


@pytest.mark.parametrize("config", [KLEIN, DEV], ids=["klein", "dev"])
@pytest.mark.parametrize("shape", [(3, 5), (6, 2), (1, 1)])
def test_forward_equals_diffusers(config, shape):
    ours, oracle = both(config)
    inputs = batch(config, *shape)
    assert relative(ours(**inputs), oracle(**inputs, return_dict=False)[0]) < 1e-5


@pytest.mark.parametrize("config", [KLEIN, DEV], ids=["klein", "dev"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_diffusers(config, checkpointing):
    ours, oracle = both(config)
    ours.gradient_checkpointing = checkpointing
    inputs = batch(config)
    weights = torch.randn(3, 15, config.in_channels)
    context = inputs["encoder_hidden_states"].requires_grad_()
    (ours(**inputs) * weights).sum().backward()
    context_grad, context.grad = context.grad, None
    (oracle(**inputs, return_dict=False)[0] * weights).sum().backward()
    assert relative(context_grad, context.grad) < 1e-4
    expected = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        assert relative(parameter.grad, expected[name].grad) < 1e-4, name


def test_a_prediction_is_the_one_of_the_klein_pipeline():
    """The pipeline packs pictures itself; what it does must be what `predict` does inside."""
    ours, oracle = both(KLEIN)
    torch.manual_seed(2)
    noisy, t, context = torch.randn(3, 8, 4, 6), torch.rand(3), torch.randn(3, 7, 20)
    denoiser = Flux2(ours)
    velocity = denoiser.predict(noisy, t, denoiser.conditioning({"context": context}))
    pipe = diffusers.Flux2KleinPipeline
    tokens = oracle(
        hidden_states=pipe._pack_latents(noisy),
        encoder_hidden_states=context,
        timestep=t,
        img_ids=pipe._prepare_latent_ids(noisy),
        txt_ids=pipe._prepare_text_ids(context),
        return_dict=False,
    )[0]
    expected = pipe._unpack_latents_with_ids(tokens, pipe._prepare_latent_ids(noisy), 4, 6)
    assert relative(velocity, expected) < 1e-5


def test_reference_positions_are_those_of_diffusers():
    pictures = [torch.zeros(1, 8, 2, 3), torch.zeros(1, 8, 4, 1)]
    expected = diffusers.Flux2KleinPipeline._prepare_image_ids(pictures)[0]
    ours = reference_positions(((2, 3), (4, 1)), REFERENCE_STEP, CPU)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_close_to_diffusers(dtype):
    ours, oracle = both(KLEIN)
    inputs = {k: v.to(dtype) if k.endswith("states") else v for k, v in batch(KLEIN).items()}
    inputs["timestep"] = torch.tensor([0.0, 0.25, 1.0])  # exact in both, as diffusers rounds it
    out = ours.to(dtype)(**inputs)
    assert out.dtype == dtype
    assert relative(out, oracle.to(dtype)(**inputs, return_dict=False)[0]) < 0.05


@pytest.mark.parametrize(
    ("config", "count"),
    [(KLEIN_4B, 3_875_544_576), (KLEIN_9B, 9_078_581_248), (Flux2Config(), 32_223_281_152)],
    ids=["klein-4b", "klein-9b", "dev"],
)
def test_released_sizes_have_the_names_and_shapes_of_diffusers(config, count):
    with torch.device("meta"):
        ours, oracle = Flux2Transformer2DModel(config), theirs(config)
    shapes = {name: tuple(p.shape) for name, p in ours.state_dict().items()}
    assert shapes == {name: tuple(p.shape) for name, p in oracle.state_dict().items()}
    assert sum(p.numel() for p in ours.parameters()) == count


def test_a_key_missing_in_a_file_means_what_it_means_to_diffusers():
    with torch.device("meta"):
        oracle = diffusers.Flux2Transformer2DModel(num_layers=0, num_single_layers=0).config
    for name, value in asdict(Flux2Config(num_layers=0, num_single_layers=0)).items():
        assert oracle[name] == value, name


@pytest.mark.parametrize("config", [KLEIN, DEV], ids=["klein", "dev"])
def test_diffusers_reads_our_folder(config, tmp_path):
    ours, _ = both(config)
    save_denoiser(Flux2(ours), tmp_path)
    oracle = diffusers.Flux2Transformer2DModel.from_pretrained(tmp_path, local_files_only=True)
    inputs = batch(config)
    assert relative(ours(**inputs), oracle(**inputs, return_dict=False)[0]) < 1e-5
    assert set(oracle.config) >= set(config.to_dict()) - {"_class_name"}


@pytest.mark.parametrize("shards", ["10GB", "20KB"])
def test_we_read_the_folder_of_diffusers(shards, tmp_path):
    _, oracle = both(DEV)
    oracle.save_pretrained(tmp_path, max_shard_size=shards)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shards == "20KB"
    ours = load_denoiser(Flux2, tmp_path)
    assert ours.network.config == DEV
    inputs = batch(DEV)
    expected = oracle(**inputs, return_dict=False)[0]
    assert relative(ours.network(**inputs), expected) < 1e-5


def test_diffusers_reads_our_shards(tmp_path):
    ours, _ = both(KLEIN)
    save_component(ours.state_dict(), KLEIN.to_dict(), tmp_path, max_shard_bytes=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    oracle = diffusers.Flux2Transformer2DModel.from_pretrained(tmp_path, local_files_only=True)
    state = oracle.state_dict()
    assert all(torch.equal(state[k], v) for k, v in load_component(tmp_path)[1].items())
