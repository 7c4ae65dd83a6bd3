"""Adapters: where they go, that they change nothing at first, and their files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelzoo.adapters import targets
from modelzoo.adapters.adapter import (
    Adapter,
    adapted,
    adapter_parameters,
    add_adapters,
    merge_adapters,
    scale_adapters,
    without_adapters,
)
from modelzoo.adapters.attach import attach
from modelzoo.adapters.files import load_adapters, save_adapters
from modelzoo.adapters.pairs import pairs_of, read_pairs, to_diffusers, to_kohya
from modelzoo.checkpoints.stream import MemorySource
from modelzoo.checkpoints.write import write_safetensors
from modelzoo.denoiser import Denoiser, init_denoiser
from modelzoo.families import FAMILIES
from tests import toys

SPEC = ["to_q", "to_k", "to_v", "to_out.0"]
FOLLOWING = {  # of the toys' layers: those with an adapter by the specification's names, and ours
    "sdxl": (32, 40),
    "flux": (7, 12),
    "flux2": (4, 10),
    "sd3": (12, 19),
}


def base(family: str) -> Denoiser:
    kind = FAMILIES[family]
    model = dataclasses.asdict(toys.section(family, Path("pictures")))
    denoiser = init_denoiser(kind.denoiser, kind.network_config(model), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a new network's gates are zero, so that no block counts
        for parameter in denoiser.network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return denoiser


def with_adapters(family: str, sets: list[str] | None = None, **changes: Any) -> Denoiser:
    denoiser = base(family)
    adapter = Adapter(**{"rank": 2, "alpha": 3.0, **changes})
    add_adapters(denoiser.network, adapter, targets.patterns(family, sets), 1)
    return denoiser


def randomise(denoiser: Denoiser) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(denoiser.network).values():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def predict(denoiser: Denoiser, family: str) -> Tensor:
    random = torch.Generator().manual_seed(3)
    config = denoiser.config
    channels = 16 if family == "flux2" else 4
    width = {"flux2": 48}.get(family, 32)
    rows = {"context": torch.randn(2, 6, width, generator=random)}
    if family != "flux2":
        pooled = {"sdxl": 16, "flux": 16, "sd3": 32}[family]
        rows["pooled"] = torch.randn(2, pooled, generator=random)
    rows["sizes"] = torch.tensor([[16, 16, 0, 0, 16, 16]] * 2)
    noisy = torch.randn(2, channels, 4, 4, generator=random).to(denoiser.dtype)
    guidance = 1.0 if getattr(config, "guidance_embeds", False) else None
    rows = {
        name: row.to(denoiser.dtype) if row.is_floating_point() else row
        for name, row in rows.items()
    }
    return denoiser.predict(noisy, torch.tensor([0.3, 0.8]), denoiser.conditioning(rows, guidance))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_names_of_the_specification_and_the_familys_own_find_their_layers(family):
    names = list(targets.layers(base(family).network))
    spec, own = FOLLOWING[family]
    assert len(targets.choose(names, SPEC, "key")) == spec
    usual = targets.choose(names, targets.patterns(family, None), "key")
    assert len(usual) == own
    assert not any("norm" in name or "embed" in name for name in usual)
    more = targets.choose(names, targets.patterns(family, ["all-linear"]), "key")
    assert set(usual) < set(more)


def test_the_fused_layers_of_flux2_and_the_dual_attention_of_sd3_get_adapters():
    names = adapted(with_adapters("flux2").network)
    assert {n.rpartition("attn.")[2] for n in names if n.startswith("single")} == {
        "to_qkv_mlp_proj",
        "to_out",
    }
    assert any(".attn2.to_q" in name for name in adapted(with_adapters("sd3").network))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("to_p", r"target_modules: 'to_p' fits no layer of this model; the nearest are .*'to_q'"),
        ("attention.to_q", r"fits no layer of this model; the nearest are .*'attn\.to_q'"),
        ("zzzz", r"fits no layer of this model; known are .*'to_k'"),
        ("to_(q", r"'to_\(q' is no regular expression"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused_with_the_nearest_names(pattern, said):
    with pytest.raises(ValueError, match=said):
        with_adapters("flux2", [pattern])


def test_a_rank_for_layers_without_an_adapter_is_refused():
    with pytest.raises(ValueError, match=r"rank_pattern: 'ff\.linear_in' fits no layer"):
        with_adapters("flux2", SPEC, ranks={"ff.linear_in": 4})


def test_ranks_and_alphas_hold_for_the_layers_that_their_patterns_fit():
    ranks, alphas = {r"0\.attn\.to_q": 5, "to_[qk]": 3}, {"to_k": 6.0}
    layers = adapted(with_adapters("flux2", SPEC, ranks=ranks, alphas=alphas).network)
    found = {name.rpartition("attn.")[2]: layer for name, layer in layers.items()}
    assert {name: layer.r["default"] for name, layer in found.items()} == {
        "to_q": 5,
        "to_k": 3,
        "to_v": 2,
        "to_out.0": 2,
    }
    assert found["to_k"].scaling["default"] == 2.0
    assert found["to_v"].scaling["default"] == 1.5


def test_rslora_scales_by_the_root_of_the_rank():
    layer = next(iter(adapted(with_adapters("flux2", rank=4, use_rslora=True).network).values()))
    assert layer.scaling["default"] == 3.0 / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_new_adapters_change_no_bit_and_trained_ones_do(family):
    expected = predict(base(family), family)
    denoiser = with_adapters(family, ["all-linear"])
    assert torch.equal(predict(denoiser, family), expected)
    randomise(denoiser)
    assert (predict(denoiser, family) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "loha"])
def test_without_adapters_or_at_scale_zero_the_base_predicts_bit_for_bit(kind):
    expected = predict(base("flux2"), "flux2")
    settings = {"use_dora": True} if kind == "dora" else {"kind": kind}
    denoiser = with_adapters("flux2", **settings)
    assert torch.equal(predict(denoiser, "flux2"), expected)
    randomise(denoiser)
    trained = predict(denoiser, "flux2")
    assert not torch.allclose(trained, expected, atol=1e-3)
    with without_adapters(denoiser.network):
        assert torch.equal(predict(denoiser, "flux2"), expected)
    scale_adapters(denoiser.network, 0)
    assert torch.equal(predict(denoiser, "flux2"), expected)
    scale_adapters(denoiser.network, 1)
    assert torch.equal(predict(denoiser, "flux2"), trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_gets_a_gradient_and_nothing_else(family):
    denoiser = with_adapters(family, ["all-linear"])
    randomise(denoiser)
    denoiser.network.train()
    denoiser.network.gradient_checkpointing = True
    predict(denoiser, family).square().mean().backward()
    adapters = adapter_parameters(denoiser.network)
    given = {p for p in denoiser.network.parameters() if p.grad is not None}
    assert given == set(adapters.values())
    idle = [name for name, p in adapters.items() if not p.grad.any()]
    unread = "transformer_blocks.1.attn.add_q_proj."  # the last context of SD3 asks nothing
    assert not [name for name in idle if family != "sd3" or not name.startswith(unread)]


def test_the_first_values_depend_on_the_seed_and_the_layer_alone():
    torch.manual_seed(5)
    first = adapter_parameters(with_adapters("flux2", SPEC).network)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    second = adapter_parameters(with_adapters("flux2", None).network)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.keys() < second.keys()
    assert all(torch.equal(p, second[name]) for name, p in first.items())
    a, *others = (p for name, p in first.items() if "lora_A" in name)
    assert not any(torch.equal(a, other) for other in others)


def test_adapters_of_a_bfloat16_base_are_float32():
    denoiser = base("flux2")
    denoiser.network.to(torch.bfloat16)
    add_adapters(denoiser.network, Adapter(rank=2), SPEC, 1)
    assert {p.dtype for p in adapter_parameters(denoiser.network).values()} == {torch.float32}
    assert denoiser.dtype == torch.bfloat16
    randomise(denoiser)
    assert predict(denoiser, "flux2").dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "loha"])
def test_a_folder_has_the_same_bytes_each_time_and_gives_the_same_prediction(tmp_path, kind):
    settings = {"use_dora": True} if kind == "dora" else {"kind": kind}
    ranks = {"to_q": 3}
    for name in ("one", "two"):
        denoiser = with_adapters("flux2", **settings, ranks=ranks)
        randomise(denoiser)
        save_adapters(denoiser.network, tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    loaded = base("flux2")
    load_adapters(loaded.network, tmp_path / "one")
    assert torch.equal(predict(loaded, "flux2"), predict(denoiser, "flux2"))


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "loha"])
def test_peft_itself_loads_the_folder(tmp_path, kind):
    from peft import PeftModel

    settings = {"use_dora": True} if kind == "dora" else {"kind": kind}
    denoiser = with_adapters("flux2", **settings)
    randomise(denoiser)
    save_adapters(denoiser.network, tmp_path)
    other = base("flux2")
    model = PeftModel.from_pretrained(other.network, str(tmp_path))
    assert model.peft_config["default"].r == 2
    torch.testing.assert_close(predict(other, "flux2"), predict(denoiser, "flux2"))


def test_adapters_of_another_family_or_rank_are_refused(tmp_path):
    denoiser = with_adapters("flux2")
    save_adapters(denoiser.network, tmp_path)
    with pytest.raises(ValueError, match="holds adapters of another network"):
        load_adapters(base("sdxl").network, tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "r": 4}))
    with pytest.raises(ValueError, match=r"does not fit the adapters .*misshapen: .* needs \[4,"):
        load_adapters(base("flux2").network, tmp_path)


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "loha"])
def test_merged_weights_predict_the_same_without_adapters(kind):
    settings = {"use_dora": True} if kind == "dora" else {"kind": kind}
    denoiser = with_adapters("sd3", **settings)
    randomise(denoiser)
    expected = predict(denoiser, "sd3")
    names = base("sd3").network.state_dict().keys()
    merge_adapters(denoiser.network)
    assert denoiser.network.state_dict().keys() == names
    torch.testing.assert_close(predict(denoiser, "sd3"), expected, atol=1e-5, rtol=0)


def saved(tensors: dict[str, Tensor], path: Path) -> Path:
    write_safetensors(MemorySource(tensors, str(path), "LoRA"), path, {"format": "pt"})
    return path


def component(family: str) -> str:
    return "unet" if family == "sdxl" else "transformer"


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_written_in_a_form_give_the_same_prediction_when_read(tmp_path, family, form):
    denoiser = with_adapters(family, ["all-linear"], ranks={"to_k": 3})
    randomise(denoiser)
    pairs = pairs_of(denoiser.network)
    if form == "kohya":
        tensors = to_kohya(pairs, denoiser.network, family)
        assert all(name.startswith("lora_unet_") for name in tensors)
    else:
        tensors = to_diffusers(pairs, component(family))
    plain = base(family)
    found = read_pairs(saved(tensors, tmp_path / "a.safetensors"), plain.network, family)
    assert found.keys() == pairs.keys()
    attach(plain.network, found)
    torch.testing.assert_close(
        predict(plain, family), predict(denoiser, family), atol=1e-5, rtol=1e-5
    )


def diffusers_transformer(family: str, denoiser: Denoiser) -> Any:
    import diffusers

    kind = getattr(diffusers, denoiser.NETWORK.__name__)
    network = kind.from_config(denoiser.config.to_dict())
    network.load_state_dict(denoiser.network.state_dict())
    return network.eval()


PIPELINES = {
    "sdxl": "StableDiffusionXLPipeline",
    "flux": "FluxPipeline",
    "flux2": "Flux2Pipeline",
    "sd3": "StableDiffusion3Pipeline",
}
READ_BY_DIFFUSERS = [
    *((family, "diffusers", False) for family in FAMILIES),
    *((family, "kohya", False) for family in ("sdxl", "flux", "flux2")),
    ("flux2", "diffusers", True),
    ("sdxl", "diffusers", True),
]


@pytest.mark.parametrize(("family", "form", "use_dora"), READ_BY_DIFFUSERS)
def test_diffusers_loads_every_key_and_predicts_the_same(tmp_path, family, form, use_dora):
    import diffusers

    chosen = None
    if (family, form) == ("flux", "kohya"):  # diffusers knows linear1 of the released width alone
        chosen = [r"transformer_blocks\.0\.attn\..*", r"single_transformer_blocks\.0\.proj_out"]
    denoiser = with_adapters(family, chosen, use_dora=use_dora, ranks={"to_k": 3})
    randomise(denoiser)
    pairs = pairs_of(denoiser.network)
    tensors = (
        to_kohya(pairs, denoiser.network, family)
        if form == "kohya"
        else to_diffusers(pairs, component(family))
    )
    file = saved(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    plain = base(family)
    network = diffusers_transformer(family, plain)
    pipeline = getattr(diffusers, PIPELINES[family])
    asked = {"unet_config": network.config} if family == "sdxl" else {}
    state = pipeline.lora_state_dict(file, **asked)
    state, alphas = state if isinstance(state, tuple) else (state, None)
    into = getattr(pipeline, f"load_lora_into_{component(family)}")
    into(state, alphas, network) if family in ("sdxl", "flux") else into(state, network)
    loaded = {name for name, _ in network.named_parameters() if ".lora_" in name}
    assert len(loaded) == len(adapter_parameters(denoiser.network))
    network.fuse_lora()
    network.unload_lora()
    ours = base(family)
    ours.network.load_state_dict(network.state_dict())
    torch.testing.assert_close(
        predict(ours, family), predict(denoiser, family), atol=1e-5, rtol=1e-5
    )
