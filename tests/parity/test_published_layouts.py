"""Tensors get the names, shapes and values that BFL and Stability publish, and come back."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers.loaders import single_file_utils
from torch import Tensor

from modelzoo.checkpoints.layouts.table import to_diffusers, to_published
from tests.parity.published_networks import (
    FULL_SIZE,
    TINY,
    Network,
    assert_same,
    config_of,
    flux1,
    rebuilt_shapes,
    source,
    tensors,
)

PUBLISHED = Path(__file__).parent / "published"  # one line a pattern: name, shape, how many
ENDS = ("conv_in", "norm_out", "conv_out")  # of an autoencoder's halves


@pytest.mark.parametrize("name", [file.stem for file in sorted(PUBLISHED.iterdir())])
def test_names_and_shapes_are_those_of_the_published_file(name):
    wanted = Counter()
    for line in (PUBLISHED / f"{name}.txt").read_text().splitlines():
        pattern, shape, number = line.split()
        key = pattern.removeprefix("model.diffusion_model."), shape
        wanted[key] += int(number.removeprefix("n="))
    network, _ = FULL_SIZE[name]
    with torch.device("meta"):
        published = to_published(source(network.make().state_dict()), network.layout)
    assert wanted == Counter(
        (re.sub(r"(?<=blocks\.)\d+", "{i}", key), "x".join(map(str, info.shape)))
        for key, info in published.infos.items()
    )


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_networks_convert_both_ways_and_show_their_sizes(name):
    network, number = FULL_SIZE[name]
    with torch.device("meta"):
        module = network.make()
    ours = source(module.state_dict())
    published = to_published(ours, network.layout)
    back = to_diffusers(published, network.layout)
    assert len(published) == number
    assert back.infos == ours.infos
    config = network.layout.config(back.infos)
    assert rebuilt_shapes(config) == {k: i.shape for k, i in ours.infos.items()}
    if network.component in ("transformer", "unet"):  # the others have scales and token ids
        theirs = config_of(network)
        assert config == {k: v for k, v in theirs.items() if k in config}


@pytest.mark.parametrize("name", TINY)
def test_round_trips_are_bit_exact(name):
    state, layout = tensors(name), TINY[name].layout
    published = to_published(source(state), layout)
    back = to_diffusers(published, layout)
    assert_same(back, state)
    assert_same(to_published(back, layout), published)


def convert_unet(published: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    prefixed = {f"model.diffusion_model.{k}": v for k, v in published.items()}
    return single_file_utils.convert_ldm_unet_checkpoint(prefixed, config_of(network))


def convert_vae(published: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    return single_file_utils.convert_ldm_vae_checkpoint(published, config_of(network))


def convert_sd3(published: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    return single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(published)


def convert_flux2(published: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    return single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers(published)


def convert_open_clip(published: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    return single_file_utils.convert_open_clip_checkpoint(network.make(), published, prefix="")


CONVERTERS = {  # of diffusers, the oracle for values; FLUX.1's is below
    "flux2": convert_flux2,
    "flux2-klein": convert_flux2,
    "sd3": convert_sd3,
    "sd3-dual": convert_sd3,
    "sdxl": convert_unet,
    "sdxl-vae": convert_vae,
    "flux1-vae": convert_vae,
    "open-clip": convert_open_clip,
}


@pytest.mark.parametrize("name", CONVERTERS)
def test_diffusers_converts_what_we_publish_to_the_same_tensors(name):
    network = TINY[name]
    state = tensors(name)
    published = {k: v.clone() for k, v in to_published(source(state), network.layout).items()}
    assert_same(CONVERTERS[name](published, network), state)


def test_diffusers_converts_what_we_publish_of_flux1_at_the_width_it_knows():
    """Rows are numbered, and columns are views of one, so that no memory is needed."""
    network = flux1(num_layers=1, num_single_layers=1, guidance_embeds=True)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in network.make().state_dict().items()}
    state = {
        name: (torch.arange(float(shape[0])) + 1e5 * i)
        .view(-1, *[1] * (len(shape) - 1))
        .expand(shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
    published = dict(to_published(source(state), network.layout))
    assert_same(
        single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(published), state
    )


def test_attention_of_an_autoencoder_is_published_as_convolutions_of_one_cell():
    published = to_published(source(tensors("flux1-vae")), TINY["flux1-vae"].layout)
    for side in ("encoder", "decoder"):
        for name in ("q", "k", "v", "proj_out"):
            assert published[f"{side}.mid.attn_1.{name}.weight"].shape == (64, 64, 1, 1)


def test_the_autoencoder_of_flux2_has_its_ends_where_bfl_has_them():
    published = to_published(source(tensors("flux2-vae")), TINY["flux2-vae"].layout)
    assert {name for name in published if not re.search(r"\.(down|up|mid)\.", name)} == {
        *(f"encoder.{n}.{p}" for n in (*ENDS, "quant_conv") for p in ("weight", "bias")),
        *(f"decoder.{n}.{p}" for n in (*ENDS, "post_quant_conv") for p in ("weight", "bias")),
        *("bn.running_mean", "bn.running_var", "bn.num_batches_tracked"),
    }
