"""Our FLUX.2 transformer and that of diffusers are the same function of the same weights."""

from __future__ import annotations

from dataclasses import asdict, replace

import diffusers
import pytest
import torch

from modelzoo.checkpoints.folder import load_component, load_strict, save_component
from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.flux.components.positions import image_positions, reference_positions
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2, Flux2Conditioning
from modelzoo.flux.v2.positions import REFERENCE_STEP, text_positions
from modelzoo.flux.v2.transformer import Flux2Transformer2DModel
from modelzoo.layers.modulation import split_modulation
from modelzoo.layers.rope import rope_table

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
FILL = replace(DEV, in_channels=20, out_channels=8)
VARIANTS = pytest.mark.parametrize("config", [KLEIN, DEV, FILL], ids=["klein", "dev", "fill"])
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
REFERENCES = ((2, 3), (4, 1))  # sizes in tokens


def theirs(config: Flux2Config) -> torch.nn.Module:
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    return diffusers.Flux2Transformer2DModel(**values)


def both(config: Flux2Config):
    torch.manual_seed(0)
    oracle = theirs(config)
    return load_strict(Flux2Transformer2DModel(config), oracle.state_dict(), "diffusers"), oracle


def batch(config: Flux2Config, height: int = 3, width: int = 5) -> dict:
    """Three pictures of height x width cells, with seven context tokens, for our transformer."""
    torch.manual_seed(1)
    extra = config.fill_channels
    return {
        "hidden_states": torch.randn(3, height * width, 8),
        "encoder_hidden_states": torch.randn(3, 7, config.joint_attention_dim),
        "timestep": torch.tensor([0.0, 0.25, 1.0]),
        "img_ids": image_positions(height, width, CPU),
        "txt_ids": text_positions(7, CPU),
        "guidance": torch.tensor([1.0, 3.5, 4.0]) if config.guidance_embeds else None,
        "img_cond": torch.randn(3, height * width, extra) if extra else None,
    }


def with_references(inputs: dict) -> dict:
    """Two reference pictures beside each target."""
    ids = reference_positions(REFERENCES, REFERENCE_STEP, CPU)
    return {**inputs, "img_cond_seq": torch.randn(3, len(ids), 8), "img_cond_seq_ids": ids}


def their_velocity(oracle: torch.nn.Module, inputs: dict) -> torch.Tensor:
    """Lay our inputs out as diffusers' pipelines do."""
    tokens, ids = inputs["hidden_states"], inputs["img_ids"]
    num_image = tokens.shape[1]
    if inputs.get("img_cond") is not None:
        tokens = torch.cat([tokens, inputs["img_cond"]], dim=2)
    if "img_cond_seq" in inputs:
        tokens = torch.cat([tokens, inputs["img_cond_seq"]], dim=1)
        ids = torch.cat([ids, inputs["img_cond_seq_ids"]])
    names = ("encoder_hidden_states", "timestep", "guidance", "txt_ids")
    rest = {name: inputs[name] for name in names}
    return oracle(hidden_states=tokens, img_ids=ids, **rest, return_dict=False)[0][:, :num_image]


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
@pytest.mark.parametrize("case", ["klein", "dev", "fill", "references"])
def test_gradients_equal_diffusers(case, checkpointing):
    config = {"klein": KLEIN, "fill": FILL}.get(case, DEV)
    ours, oracle = both(config)
    ours.gradient_checkpointing = checkpointing
    inputs = batch(config) if case != "references" else with_references(batch(config))
    names = ("hidden_states", "encoder_hidden_states", "img_cond_seq")
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
    states = ("hidden_states", "encoder_hidden_states", "img_cond_seq", "img_cond")
    half = {
        name: value.bfloat16() if name in states and value is not None else value
        for name, value in inputs.items()
    }
    velocity = ours.bfloat16()(**half)
    assert velocity.dtype == torch.bfloat16
    spread = (their_velocity(oracle.bfloat16(), half) - exact).norm()
    assert (velocity - exact).norm() <= spread


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


def test_references_and_what_to_fill_are_conditions_of_a_prediction():
    torch.manual_seed(2)
    noisy, t, context = (
        torch.randn(3, 8, 4, 6),
        torch.tensor([0.0, 0.25, 1.0]),
        torch.randn(3, 7, 20),
    )
    pack = diffusers.Flux2KleinPipeline._pack_latents
    inputs = {**batch(KLEIN, 4, 6), "hidden_states": pack(noisy), "encoder_hidden_states": context}

    references = tuple(torch.randn(3, 8, *size) for size in REFERENCES)
    ours, _ = both(KLEIN)
    velocity = Flux2(ours).predict(noisy, t, Flux2Conditioning(context, references=references))
    packed = torch.cat([pack(r) for r in references], dim=1)
    expected = ours(**{**with_references(inputs), "img_cond_seq": packed})
    assert relative(pack(velocity), expected) < 1e-5

    fill = torch.randn(3, 12, 4, 6)
    ours, _ = both(replace(FILL, guidance_embeds=False))
    velocity = Flux2(ours).predict(noisy, t, Flux2Conditioning(context, fill=fill))
    assert relative(pack(velocity), ours(**{**inputs, "img_cond": pack(fill)})) < 1e-5


def test_reference_positions_are_those_of_diffusers():
    pictures = [torch.zeros(1, 8, 2, 3), torch.zeros(1, 8, 4, 1)]
    expected = diffusers.Flux2KleinPipeline._prepare_image_ids(pictures)[0]
    assert torch.equal(reference_positions(REFERENCES, REFERENCE_STEP, CPU), expected)


@pytest.mark.parametrize(
    ("config", "tensors", "count"),
    [
        (KLEIN_4B, 169, 3_875_544_576),
        (KLEIN_9B, 233, 9_078_581_248),
        (Flux2Config(), 331, 32_223_281_152),
    ],
    ids=["klein-4b", "klein-9b", "dev"],
)
def test_released_sizes_have_the_names_and_shapes_of_diffusers(config, tensors, count):
    with torch.device("meta"):
        ours, oracle = Flux2Transformer2DModel(config), theirs(config)
    kinds = {name: (tuple(p.shape), p.dtype) for name, p in ours.state_dict().items()}
    assert kinds == {name: (tuple(p.shape), p.dtype) for name, p in oracle.state_dict().items()}
    assert len(kinds) == tensors
    assert sum(p.numel() for p in ours.parameters()) == count


def test_a_key_missing_in_a_file_means_what_it_means_to_diffusers():
    with torch.device("meta"):
        oracle = diffusers.Flux2Transformer2DModel(num_layers=0, num_single_layers=1).config
    for name, value in asdict(Flux2Config(num_layers=0, num_single_layers=1)).items():
        assert oracle[name] == value, name


@VARIANTS
def test_diffusers_reads_our_folder(config, tmp_path):
    ours, _ = both(config)
    save_denoiser(Flux2(ours), tmp_path)
    oracle = diffusers.Flux2Transformer2DModel.from_pretrained(tmp_path, local_files_only=True)
    inputs = batch(config)
    assert relative(ours(**inputs), their_velocity(oracle, inputs)) < 1e-5
    assert set(oracle.config) >= set(config.to_dict()) - {"_class_name"}


@pytest.mark.parametrize("shards", ["10GB", "20KB"])
def test_we_read_the_folder_of_diffusers(shards, tmp_path):
    _, oracle = both(DEV)
    oracle.save_pretrained(tmp_path, max_shard_size=shards)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shards == "20KB"
    ours = load_denoiser(Flux2, tmp_path)
    assert ours.network.config == DEV
    inputs = batch(DEV)
    assert relative(ours.network(**inputs), their_velocity(oracle, inputs)) < 1e-5


def test_diffusers_reads_our_shards(tmp_path):
    ours, _ = both(KLEIN)
    save_component(ours.state_dict(), KLEIN.to_dict(), tmp_path, max_shard_bytes=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    oracle = diffusers.Flux2Transformer2DModel.from_pretrained(tmp_path, local_files_only=True)
    state = oracle.state_dict()
    assert all(torch.equal(state[k], v) for k, v in load_component(tmp_path)[1].items())


@pytest.mark.parametrize("name", ["transformer_blocks", "single_transformer_blocks"])
def test_a_block_compiles_without_graph_breaks(name):
    ours, _ = both(DEV)
    torch.manual_seed(3)
    txt, img = torch.randn(1, 4, 32), torch.randn(1, 9, 32)
    ids = torch.cat([text_positions(4, CPU), image_positions(3, 3, CPU)])
    rope = rope_table(ids, DEV.axes_dims_rope, DEV.rope_theta)[None]
    mods = split_modulation(torch.randn(1, 6 * 32), sets=2)
    inputs = (txt, img, mods, mods, rope)
    if name == "single_transformer_blocks":
        inputs = (torch.cat([txt, img], dim=1), mods[0], rope, slice(4, 13))
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
