"""What a file is, is told from its tensors; what cannot be used is refused with a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelzoo.checkpoints.layouts.clip import SIGN
from modelzoo.checkpoints.layouts.table import to_published
from modelzoo.checkpoints.single_file import (
    Component,
    SingleFile,
    open_single_file,
    save_single_file,
)
from modelzoo.checkpoints.stream import MemorySource
from tests.parity.published_networks import (
    TINY,
    assert_same,
    component,
    config_of,
    rebuilt_shapes,
    source,
    tensors,
)

DENOISERS = ["flux1", "flux2-klein", "sd3-dual", "sdxl"]


def published(name: str, prefix: str = "") -> dict[str, Tensor]:
    converted = to_published(source(tensors(name)), TINY[name].layout)
    return {f"{prefix}{k}": v.contiguous() for k, v in converted.items()}


def open_tensors(state: dict[str, Tensor], folder: Path, family: str | None = None) -> SingleFile:
    save_file(state, folder / "model.safetensors")
    return open_single_file(folder / "model.safetensors", family)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("name", DENOISERS)
def test_a_denoiser_is_known_under_every_prefix(name, prefix, tmp_path):
    file = open_tensors(published(name, prefix), tmp_path)
    network = TINY[name]
    assert (file.family, list(file.components)) == (network.family, [network.component])
    assert_same(file.components[network.component].source, tensors(name))


@pytest.mark.parametrize("name", [*DENOISERS, "sdxl-vae", "flux2-vae"])
def test_one_file_may_have_the_names_of_diffusers(name, tmp_path):
    file = open_tensors(tensors(name), tmp_path, TINY[name].family)
    network = TINY[name]
    assert file.layouts == {network.component: "diffusers"}
    assert_same(file.components[network.component].source, tensors(name))


def test_the_file_of_sdxl_holds_four_networks_and_what_nothing_reads(tmp_path):
    embedder = "conditioner.embedders"
    state = {
        **published("sdxl", "model.diffusion_model."),
        **published("sdxl-vae", "first_stage_model."),
        **published("clip", f"{embedder}.0.transformer."),
        **published("open-clip", f"{embedder}.1.model."),
        f"{embedder}.0.transformer.text_model.embeddings.position_ids": torch.arange(9),
        f"{embedder}.1.model.logit_scale": torch.tensor(4.6),
        "denoiser.sigmas": torch.zeros(1000),
    }
    file = open_tensors(state, tmp_path)
    assert file.family == "sdxl"
    names = {"unet": "sdxl", "vae": "sdxl-vae", "clip_l": "clip", "clip_g": "open-clip"}
    assert file.components.keys() == names.keys()
    for kind, name in names.items():
        assert_same(file.components[kind].source, tensors(name))
    assert file.components["vae"].config["scaling_factor"] == 0.13025


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("sdxl", {"unet": "sdxl", "vae": "sdxl-vae", "clip_l": "clip", "clip_g": "open-clip"}),
        ("flux", {"transformer": "flux1", "vae": "flux1-vae", "clip_l": "clip", "t5": "t5"}),
        ("flux2", {"transformer": "flux2", "vae": "flux2-vae", "qwen3": "qwen3"}),
        (
            "sd3",
            {
                "transformer": "sd3",
                "vae": "sd3-vae",
                "clip_l": "clip",
                "clip_g": "open-clip",
                "t5": "t5",
            },
        ),
    ],
)
def test_a_whole_model_fits_into_the_file_that_comfyui_reads(family, names, tmp_path):
    path = tmp_path / "model.safetensors"
    save_single_file({k: component(v) for k, v in names.items()}, path, "comfy", family)
    file = open_single_file(path)
    assert file.family == family
    assert file.components.keys() == names.keys()
    for kind, name in names.items():
        assert file.components[kind].config == config_of(TINY[name])
        assert_same(file.components[kind].source, tensors(name))
    assert all(
        re.match(r"(model|vae|first_stage_model|conditioner|text_encoders)\.", k)
        for k in load_file(path)
    )


def test_sd3_projects_clip_l_by_the_identity_where_its_file_has_no_projection(tmp_path):
    clip = published("clip", "text_encoders.clip_l.transformer.")
    del clip["text_encoders.clip_l.transformer.text_projection.weight"]
    state = {**published("sd3", "model.diffusion_model."), **clip}
    config, tensors_ = open_tensors(state, tmp_path).components["clip_l"]
    assert torch.equal(tensors_["text_projection.weight"], torch.eye(64).half())
    assert config["architectures"] == ["CLIPTextModelWithProjection"]
    assert config["projection_dim"] == 64
    flux = {**published("flux1", "model.diffusion_model."), **clip}
    config, tensors_ = open_tensors(flux, tmp_path).components["clip_l"]
    assert "text_projection.weight" not in tensors_
    assert config["architectures"] == ["CLIPTextModel"]


@pytest.mark.parametrize(("width", "kind"), [(768, "clip_l"), (1280, "clip_g")])
def test_a_clip_alone_is_told_by_its_width_and_known_without_its_prefix(width, kind, tmp_path):
    layer = "text_model.encoder.layers.0"
    state = {
        SIGN: torch.zeros(2, width),
        "text_model.embeddings.position_embedding.weight": torch.zeros(3, width),
        f"{layer}.mlp.fc1.weight": torch.zeros(5, width),
    }
    for given in (state, {k.removeprefix("text_model."): v for k, v in state.items()}):
        file = open_tensors(given, tmp_path)
        assert (file.family, list(file.components)) == (None, [kind])
        config, tensors_ = file.components[kind]
        assert config["num_attention_heads"] == width // 64
        assert config["hidden_act"] == {"clip_l": "quick_gelu", "clip_g": "gelu"}[kind]
        assert_same(tensors_, state)


def test_mistral_of_comfyui_gets_the_names_of_transformers(tmp_path):
    """Its published file ends with the layer that FLUX.2 reads, and carries the tokenizer."""
    state = {k: v for k, v in tensors("qwen3").items() if not re.search(r"[qk]_norm|lm_head", k)}
    file = open_tensors({**state, "tekken_model": torch.zeros(9, dtype=torch.uint8)}, tmp_path)
    config, tensors_ = file.components["mistral3"]
    assert_same(tensors_, {f"language_model.{k}": v for k, v in state.items()})
    text = rebuilt_shapes({**config["text_config"], "architectures": ["MistralForCausalLM"]})
    assert text == {**{k: v.shape for k, v in state.items()}, "lm_head.weight": (50, 32)}


def test_an_autoencoder_alone_needs_the_family_and_gets_its_scale(tmp_path):
    with pytest.raises(ValueError, match=r"say the family, one of \['flux', 'sd3', 'sdxl'\]"):
        open_tensors(published("flux1-vae"), tmp_path)
    path = tmp_path / "model.safetensors"
    flux, sd3 = (open_single_file(path, f).components["vae"].config for f in ("flux", "sd3"))
    assert (flux["scaling_factor"], flux["shift_factor"]) == (0.3611, 0.1159)
    assert (sd3["scaling_factor"], sd3["shift_factor"]) == (1.5305, 0.0609)
    save_single_file({"vae": component("sd3-vae")}, path, "stability", "sd3")
    assert open_single_file(path).components["vae"].config == config_of(TINY["sd3-vae"])


def test_plain_float8_is_a_dtype_like_others(tmp_path):
    state = {k: v.to(torch.float8_e4m3fn) for k, v in published("t5").items()}
    assert open_tensors(state, tmp_path).components["t5"].source.infos["shared.weight"] == (
        (50, 32),
        torch.float8_e4m3fn,
    )


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["transformer.x.lora_A.weight", "transformer.x.lora_B.weight"], "is a LoRA"),
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "is a LoRA"),
        (["unet.x.to_q_lora.down.weight"], "is a LoRA"),
        (["double_blocks.0.img_mod.lin.weight", "x.scale_weight"], "is quantised"),
        (["x.weight", "x.weight.quant_state.bitsandbytes__nf4"], "is quantised"),
        (["scaled_fp8"], "is quantised"),
        (["x.weight", "x.weight_scale"], "is quantised"),
        (["x.comfy_quant"], "is quantised"),
        (
            [f"net.{i:02}" for i in range(12)],
            r"12 tensors of no known network, such.*net\.09'\]; known",
        ),
        (["double_blocks.0.img_mod.lin.weight"], r"BFL FLUX\.1 layout.*has no 'img_in\.weight'"),
        (["joint_blocks.0.x_block.attn.qkv.weight"], r"SD3\.5 layout.* has no 'pos_embed\.proj"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(names, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        open_tensors({name: torch.zeros(3, 2) for name in names}, tmp_path)


def test_tensors_beside_a_known_network_are_listed(tmp_path):
    state = {**published("flux1", "model.diffusion_model."), "controlnet.x": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"1 tensors .* besides \['transformer'\].*\['controlnet\.x'\]"
    ):
        open_tensors(state, tmp_path)
    state = {**published("flux1"), "controlnet.x": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"BFL FLUX\.1 layout has no \['controlnet\.x'\]"):
        open_tensors(state, tmp_path)


def test_pickles_gguf_and_other_families_are_refused(tmp_path):
    torch.save({}, tmp_path / "sd_xl_base_1.0.ckpt")
    with pytest.raises(ValueError, match="runs whatever code"):
        open_single_file(tmp_path / "sd_xl_base_1.0.ckpt")
    with pytest.raises(ValueError, match="is quantised"):
        open_single_file(tmp_path / "flux1-dev-Q4_K_S.gguf")
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_single_file(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="is a model of type 'sd3', not 'flux'"):
        open_tensors(published("sd3"), tmp_path, "flux")


def test_rotary_axes_are_not_guessed(tmp_path):
    state = published("flux2-klein")
    for name in [k for k in state if k.endswith("norm.scale")]:
        state[name] = state[name][:64].clone()
    with pytest.raises(ValueError, match="heads are 64 wide, and the rotary axes"):
        open_tensors(state, tmp_path)


@pytest.mark.parametrize(
    ("kinds", "layout", "family", "reason"),
    [
        (["flux1"], "stability", "flux", r"does not exist .*\['bfl', 'comfy', 'diffusers'\]"),
        (["flux1"], "ldm", "flux", "layout 'ldm' does not exist"),
        (["flux1", "clip"], "bfl", "flux", r"no place for \['clip_l'\]"),
        (["flux1", "flux1-vae"], "bfl", "flux", "a file of its own"),
        (["flux1", "flux1-vae"], "diffusers", "flux", "a file of its own"),
    ],
)
def test_a_layout_that_cannot_hold_a_model_is_refused(kinds, layout, family, reason, tmp_path):
    components = {TINY[name].component: component(name) for name in kinds}
    with pytest.raises(ValueError, match=reason):
        save_single_file(components, tmp_path / "model.safetensors", layout, family)
    assert list(tmp_path.iterdir()) == []


def test_text_encoders_are_written_whatever_release_of_transformers_named_them(tmp_path):
    unprefixed = {k.removeprefix("text_model."): v for k, v in tensors("clip").items()}
    components = {
        "transformer": component("flux1"),
        "clip_l": Component(config_of(TINY["clip"]), MemorySource(unprefixed, "x", "diffusers")),
    }
    save_single_file(components, tmp_path / "model.safetensors", "comfy", "flux")
    written = load_file(tmp_path / "model.safetensors")
    assert f"text_encoders.clip_l.transformer.{SIGN}" in written
