"""What the presets of all families read alike of the section `model` of the parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any

from modelzoo.checkpoints.config import LAYOUT_VERSION

Params = Mapping[str, Any]  # the section `model` of params.yaml

# of every released KL autoencoder
KL_SIZES = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "norm_num_groups": 32,
}


def given(model: Params, name: str) -> dict[str, Any]:
    """Take the keys of `model.<name>` that are not null."""
    return {k: v for k, v in (model.get(name) or {}).items() if v is not None}


def transformer_section(
    model: Params, family: str, needs: Set[str], takes: Set[str], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Take `model.transformer`, and check that its keys are the ones that the family has.

    Args:
        model: The section `model`.
        family: What errors call it.
        needs: Keys that must be there.
        takes: All keys that may be there.
        fixed: Keys of other families, and the one value that says what this family has.

    Raises:
        ValueError: A key is missing or unknown, has another value than the fixed one, or heads do
            not divide the width.
    """
    section = given(model, "transformer")
    for name, only in fixed.items():
        if (value := section.pop(name, only)) != only:
            raise ValueError(
                f"model.transformer.{name}: {value!r} is not possible, {family} has {only!r}: "
                "leave the key out"
            )
    missing, unknown = sorted(needs - section.keys()), sorted(section.keys() - takes)
    if missing or unknown:
        raise ValueError(
            f"model.transformer: missing are {missing!r}, unknown are {unknown!r}; {family} takes "
            f"{sorted(takes)!r}"
        )
    dim, heads = section["hidden_size"], section["num_attention_heads"]
    if dim % heads:
        raise ValueError(
            f"model.transformer.hidden_size {dim!r} does not divide into num_attention_heads "
            f"{heads!r}: change either"
        )
    return section


def check_token_channels(section: Mapping[str, Any], latent_channels: int) -> None:
    """Hold the channels of an image token against those of 2x2 latent cells."""
    if section["in_channels"] != 4 * latent_channels:
        raise ValueError(
            f"model.transformer.in_channels {section['in_channels']!r} must be 4 * "
            f"model.vae.latent_channels = {4 * latent_channels!r}, the channels of 2x2 patches: "
            "change either"
        )


def variant_of(model: Params, default: str, known: Collection[str], family: str) -> str:
    """Read `model.variant`."""
    variant = model.get("variant") or default
    if variant not in known:
        raise ValueError(
            f"model.variant: unknown name {variant!r}; {family} has {sorted(known)!r}: use one"
        )
    return variant


def kl_config(model: Params, released: Mapping[str, Any], quant_convs: bool) -> dict[str, Any]:
    """Read `model.vae` as the config.json of an AutoencoderKL; what it leaves out is released."""
    sizes = {**KL_SIZES, **released, **given(model, "vae")}
    levels = len(sizes["block_out_channels"])
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": LAYOUT_VERSION,
        "act_fn": "silu",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": True,
        "use_quant_conv": quant_convs,
        "use_post_quant_conv": quant_convs,
        "force_upcast": True,  # the released weights overflow in float16
        "sample_size": 1024,
        **sizes,
    }
