"""Our FLUX.1 transformer and that of diffusers are the same function of the same weights."""

from __future__ import annotations

from dataclasses import asdict, replace

import diffusers
import pytest
import torch

from modelzoo.checkpoints.folder import load_component, load_strict, save_component
from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.flux.components.positions import image_positions, reference_positions
from modelzoo.flux.v1.config import ROPE_THETA, Flux1Config
from modelzoo.flux.v1.latents import REFERENCE_STEP, text_positions
from modelzoo.flux.v1.model import Flux1, Flux1Conditioning
from modelzoo.flux.v1.transformer import FluxTransformer2DModel
from modelzoo.layers.rope import rope_table

SCHNELL = Flux1Config(
    in_channels=8,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=20,
    pooled_projection_dim=12,
    axes_dims_rope=(4, 6, 6),
)
DEV = replace(SCHNELL, guidance_embeds=True)
FILL = replace(DEV, in_channels=28, out_channels=8)
VARIANTS = pytest.mark.parametrize("config", [SCHNELL, DEV, FILL], ids=["schnell", "dev", "fill"])
FULL_DEV = Flux1Config(guidance_embeds=True)
CPU = torch.device("cpu")
REFERENCES = ((2, 4), (3, 3))  # sizes in tokens


def theirs(config: Flux1Config) -> torch.nn.Module:
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    return diffusers.FluxTransformer2DModel(**values)


def both(config: Flux1Config):
    torch.manual_seed(0)
    oracle = theirs(config)
    return load_strict(FluxTransformer2DModel(config), oracle.state_dict(), "diffusers"), oracle


def batch(config: Flux1Config, height: int = 3, width: int = 5) -> dict:
    """Three pictures of height x width tokens, with seven context tokens, for our transformer."""
    torch.manual_seed(1)
    extra = config.fill_channels
    return {
        "hidden_states": torch.randn(3, height * width, 8),
        "encoder_hidden_states": torch.randn(3, 7, config.joint_attention_dim),
        "pooled_projections": torch.randn(3, config.pooled_projection_dim),
        "timestep": torch.tensor([0.0, 0.25, 1.0]),
        "img_ids": image_positions(height, width, CPU),
        "txt_ids": text_positions(7, CPU),
        "guidance": torch.tensor([1.0, 3.5, 30.0]) if config.guidance_embeds else None,
        "img_cond": torch.randn(3, height * width, extra) if extra else None,
    }


def with_references(inputs: dict) -> dict:
    """Two reference pictures beside each target."""
    ids = reference_positions(REFERENCES, REFERENCE_STEP, CPU)
    return {**inputs, "img_cond_seq": torch.randn(3, len(ids), 8), "img_cond_seq_ids": ids}


def their_velocity(oracle: torch.nn.Module, inputs: dict) -> torch.Tensor:
    """Lay our inputs out as diffusers' pipelines do, with positions of three columns."""
    tokens, ids = inputs["hidden_states"], inputs["img_ids"]
    num_image = tokens.shape[1]
    if inputs.get("img_cond") is not None:
        tokens = torch.cat([tokens, inputs["img_cond"]], dim=2)
    if "img_cond_seq" in inputs:
        tokens = torch.cat([tokens, inputs["img_cond_seq"]], dim=1)
        ids = torch.cat([ids, inputs["img_cond_seq_ids"]])
    names = ("encoder_hidden_states", "pooled_projections", "timestep", "guidance")
    velocity = oracle(
        hidden_states=tokens,
        img_ids=ids[:, :3],
        txt_ids=inputs["txt_ids"][:, :3],
        **{name: inputs[name] for name in names},
        return_dict=False,
    )[0]
    return velocity[:, :num_image]


def relative(ours: torch.Tensor, oracle: torch.Tensor) -> float:
    return ((ours - oracle).abs().max() / oracle.abs().max()).item()


@VARIANTS
@pytest.mark.parametrize("shape", [(3, 5), (6, 2), (1, 1)])
def test_forward_equals_diffusers(config, shape):
    ours, oracle = both(config)
    inputs = batch(config, *shape)
    assert relative(ours(**inputs), their_velocity(oracle, inputs)) < 1e-5


def test_forward_with_references_equals_diffusers():
    ours, oracle = both(DEV)
    plain = batch(DEV)
    inputs = with_references(plain)
    velocity = ours(**inputs)
    assert relative(velocity, their_velocity(oracle, inputs)) < 1e-5
    assert relative(velocity, ours(**plain)) > 1e-3  # the references were looked at


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("case", ["schnell", "dev", "fill", "kontext"])
def test_gradients_equal_diffusers(case, checkpointing):
    config = {"schnell": SCHNELL, "fill": FILL}.get(case, DEV)
    ours, oracle = both(config)
    ours.gradient_checkpointing = checkpointing
    inputs = batch(config) if case != "kontext" else with_references(batch(config))
    names = ("hidden_states", "encoder_hidden_states", "pooled_projections", "img_cond_seq")
    leaves = [inputs[name].requires_grad_() for name in names if name in inputs]
    weights = torch.randn(3, 15, 8)
    (ours(**inputs) * weights).sum().backward()
    our_grads = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    (their_velocity(oracle, inputs) * weights).sum().backward()
    for ours_of, leaf in zip(our_grads, leaves, strict=True):
        assert relative(ours_of, leaf.grad) < 1e-4
    expected = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        assert relative(parameter.grad, expected[name].grad) < 1e-4, name


@VARIANTS
def test_half_precision_strays_from_float32_no_further_than_diffusers(config):
    ours, oracle = both(config)
    inputs = with_references(batch(config)) if config == DEV else batch(config)
    exact = their_velocity(oracle, inputs)
    states = ("hidden_states", "encoder_hidden_states", "pooled_projections", "img_cond_seq")
    half = {
        name: value.bfloat16() if name in (*states, "img_cond") and value is not None else value
        for name, value in inputs.items()
    }
    velocity = ours.bfloat16()(**half)
    assert velocity.dtype == torch.bfloat16
    spread = (their_velocity(oracle.bfloat16(), half) - exact).norm()
    assert (velocity - exact).norm() <= spread


def test_a_prediction_is_the_one_of_the_pipeline():
    """The pipeline packs pictures itself; what it does must be what `predict` does inside."""
    ours, oracle = both(DEV)
    denoiser = Flux1(ours)
    torch.manual_seed(2)
    noisy, t = torch.randn(3, 2, 4, 6), torch.rand(3)
    rows = {"context": torch.randn(3, 7, 20), "pooled": torch.randn(3, 12)}
    velocity = denoiser.predict(noisy, t, denoiser.conditioning(rows, guidance=2.0))
    pipe = diffusers.FluxPipeline
    tokens = oracle(
        hidden_states=pipe._pack_latents(noisy, 3, 2, 4, 6),
        encoder_hidden_states=rows["context"],
        pooled_projections=rows["pooled"],
        timestep=t,
        img_ids=pipe._prepare_latent_image_ids(3, 2, 3, "cpu", torch.float32),
        txt_ids=torch.zeros(7, 3),
        guidance=torch.full((3,), 2.0),
        return_dict=False,
    )[0]
    expected = pipe._unpack_latents(tokens, height=32, width=48, vae_scale_factor=8)
    assert relative(velocity, expected) < 1e-5


def test_positions_of_every_sample_may_differ():
    """(B, N, 4), as the specification writes them, are the samples' own positions."""
    ours, _ = both(DEV)
    inputs = with_references(batch(DEV))
    shifts = torch.tensor([0, 1, 5])[:, None, None]
    together = ours(**{**inputs, "img_cond_seq_ids": inputs["img_cond_seq_ids"] + shifts})
    for i, shift in enumerate(shifts):
        alone = {k: v if k.endswith("_ids") or v is None else v[i, None] for k, v in inputs.items()}
        alone["img_cond_seq_ids"] = inputs["img_cond_seq_ids"] + shift
        assert relative(together[i], ours(**alone)[0]) < 1e-5


def test_the_fourth_column_changes_nothing():
    ours, _ = both(DEV)
    inputs = batch(DEV)
    counted = inputs["txt_ids"] + torch.tensor([0, 0, 0, 1]) * torch.arange(7)[:, None]
    assert torch.equal(ours(**inputs), ours(**{**inputs, "txt_ids": counted}))
    ids = image_positions(30, 40, CPU, t=1)
    three_columns = rope_table(ids[:, :3], FULL_DEV.axes_dims_rope, ROPE_THETA)
    assert torch.equal(rope_table(ids, FULL_DEV.rope_axes, ROPE_THETA), three_columns)


@pytest.mark.parametrize(
    ("config", "tensors", "count"),
    [
        (FULL_DEV, 1160, 11_901_408_320),
        (Flux1Config(), 1156, 11_891_178_560),
        (Flux1Config(guidance_embeds=True, in_channels=384, out_channels=64), 1160, 11_902_391_360),
    ],
    ids=["dev", "schnell", "fill"],
)
def test_released_sizes_have_the_names_and_shapes_of_diffusers(config, tensors, count):
    with torch.device("meta"):
        ours, oracle = FluxTransformer2DModel(config), theirs(config)
    kinds = {name: (tuple(p.shape), p.dtype) for name, p in ours.state_dict().items()}
    assert kinds == {name: (tuple(p.shape), p.dtype) for name, p in oracle.state_dict().items()}
    assert len(kinds) == tensors
    assert sum(p.numel() for p in ours.parameters()) == count


def test_a_key_missing_in_a_file_means_what_it_means_to_diffusers():
    with torch.device("meta"):
        oracle = diffusers.FluxTransformer2DModel(num_layers=0, num_single_layers=1).config
    for name, value in asdict(Flux1Config(num_layers=0, num_single_layers=1)).items():
        assert oracle[name] == value, name


@VARIANTS
def test_diffusers_reads_our_folder(config, tmp_path):
    ours, _ = both(config)
    save_denoiser(Flux1(ours), tmp_path)
    oracle = diffusers.FluxTransformer2DModel.from_pretrained(tmp_path, local_files_only=True)
    inputs = batch(config)
    assert relative(ours(**inputs), their_velocity(oracle, inputs)) < 1e-5
    assert set(oracle.config) >= set(config.to_dict()) - {"_class_name"}


@pytest.mark.parametrize("shards", ["10GB", "40KB"])
def test_we_read_the_folder_of_diffusers(shards, tmp_path):
    _, oracle = both(DEV)
    oracle.save_pretrained(tmp_path, max_shard_size=shards)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shards == "40KB"
    ours = load_denoiser(Flux1, tmp_path)
    assert ours.config == DEV
    inputs = batch(DEV)
    assert relative(ours.network(**inputs), their_velocity(oracle, inputs)) < 1e-5


def test_diffusers_reads_our_shards(tmp_path):
    ours, _ = both(SCHNELL)
    save_component(ours.state_dict(), SCHNELL.to_dict(), tmp_path, max_shard_bytes=40_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    oracle = diffusers.FluxTransformer2DModel.from_pretrained(tmp_path, local_files_only=True)
    state = oracle.state_dict()
    assert all(torch.equal(state[k], v) for k, v in load_component(tmp_path)[1].items())


@pytest.mark.parametrize("name", ["transformer_blocks", "single_transformer_blocks"])
def test_a_block_compiles_without_graph_breaks(name):
    ours, _ = both(DEV)
    torch.manual_seed(3)
    tokens, condition = torch.randn(1, 9, 32), torch.randn(1, 32)
    ids = image_positions(3, 3, CPU)
    txt = torch.randn(1, 4, 32)
    rope = rope_table(torch.cat([text_positions(4, CPU), ids]), DEV.rope_axes, ROPE_THETA)[None]
    inputs = (txt, tokens, condition, rope)
    if name == "single_transformer_blocks":
        inputs = (torch.cat([txt, tokens], dim=1), condition, rope, slice(4, 13))
    block = getattr(ours, name)[0]
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    results = {}
    for run in (block, compiled):
        block.zero_grad()
        out = run(*inputs)
        out = out if isinstance(out, torch.Tensor) else torch.cat(out, dim=1)
        out.square().sum().backward()
        results[run] = [out.detach(), *(p.grad for p in block.parameters())]
    torch.testing.assert_close(results[compiled], results[block])


def test_references_and_what_to_fill_are_conditions_of_a_prediction():
    ours, _ = both(DEV)
    denoiser = Flux1(ours)
    torch.manual_seed(2)
    noisy, t = torch.randn(3, 2, 6, 10), torch.tensor([0.0, 0.25, 1.0])
    references = tuple(torch.randn(3, 2, 2 * h, 2 * w) for h, w in REFERENCES)
    inputs = batch(DEV)
    conditioning = Flux1Conditioning(
        inputs["encoder_hidden_states"], inputs["pooled_projections"], inputs["guidance"]
    )
    velocity = denoiser.predict(noisy, t, conditioning._replace(references=references))
    pack = diffusers.FluxPipeline._pack_latents
    inputs["hidden_states"] = pack(noisy, 3, 2, 6, 10)
    packed = [pack(r, *r.shape) for r in references]
    inputs = {**with_references(inputs), "img_cond_seq": torch.cat(packed, dim=1)}
    expected = diffusers.FluxPipeline._unpack_latents(ours(**inputs), 48, 80, 8)
    assert relative(velocity, expected) < 1e-5
