"""Autoencoders as every family publishes them, with the names of latent diffusion; their sizes."""

from __future__ import annotations

from typing import Any

from modelzoo.checkpoints.layouts.table import CONV_TO_LINEAR, Infos, Layout, Row, count, rename

ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
NORMALISATION: dict[
    str, dict[str, float | None]
] = {  # of latents, by family; no tensor holds it, except for FLUX.2's statistics
    "sdxl": {"scaling_factor": 0.13025, "shift_factor": None},
    "flux": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
    "sd3": {"scaling_factor": 1.5305, "shift_factor": 0.0609},
}


def _rows(infos: Infos) -> list[Row]:
    levels = count(infos, "decoder.up.", "decoder.up_blocks.")
    table = []
    if "bn.running_mean" in infos:  # FLUX.2
        table += [
            rename("encoder.quant_conv.*", "quant_conv.*"),
            rename("decoder.post_quant_conv.*", "post_quant_conv.*"),
            rename("bn.*", "bn.*"),
        ]
    table += [
        rename("quant_conv.*", "quant_conv.*"),
        rename("post_quant_conv.*", "post_quant_conv.*"),
        *_side("encoder"),
        *_side("decoder"),
        *_blocks("encoder.down.{}.block.{}", "encoder.down_blocks.{}.resnets.{}"),
        rename("encoder.down.{}.downsample.*", "encoder.down_blocks.{}.downsamplers.0.*"),
    ]
    for level in range(levels):  # latent diffusion counts finest first on the way up, too
        theirs, ours = f"decoder.up.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        table += _blocks(f"{theirs}.block.{{}}", f"{ours}.resnets.{{}}")
        table += [rename(f"{theirs}.upsample.*", f"{ours}.upsamplers.0.*")]
    return table


def _side(side: str) -> list[Row]:
    theirs, ours = f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0"
    table = [
        rename(f"{side}.conv_in.*", f"{side}.conv_in.*"),
        rename(f"{side}.norm_out.*", f"{side}.conv_norm_out.*"),
        rename(f"{side}.conv_out.*", f"{side}.conv_out.*"),
        rename(f"{side}.mid.block_1.*", f"{side}.mid_block.resnets.0.*"),
        rename(f"{side}.mid.block_2.*", f"{side}.mid_block.resnets.1.*"),
        rename(f"{theirs}.norm.*", f"{ours}.group_norm.*"),
    ]
    for name, layer in ATTENTION.items():
        table += [
            rename(f"{theirs}.{name}.weight", f"{ours}.{layer}.weight", CONV_TO_LINEAR),
            rename(f"{theirs}.{name}.bias", f"{ours}.{layer}.bias"),
        ]
    return table


def _blocks(theirs: str, ours: str) -> list[Row]:
    return [
        rename(f"{theirs}.nin_shortcut.*", f"{ours}.conv_shortcut.*"),
        rename(f"{theirs}.*", f"{ours}.*"),
    ]


def _config(infos: Infos) -> dict[str, Any]:
    levels = count(infos, "encoder.down_blocks.")
    widths = _widths(infos, "encoder.down_blocks", range(levels))
    decoder_widths = _widths(infos, "decoder.up_blocks", range(levels - 1, -1, -1))
    patched = "bn.running_mean" in infos
    sizes = {
        "_class_name": "AutoencoderKLFlux2" if patched else "AutoencoderKL",
        "in_channels": infos["encoder.conv_in.weight"].shape[1],
        "out_channels": infos["decoder.conv_out.weight"].shape[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": widths,
        "layers_per_block": count(infos, "encoder.down_blocks.0.resnets."),
        "act_fn": "silu",
        "latent_channels": infos["decoder.conv_in.weight"].shape[1],
        "norm_num_groups": 32,
        "sample_size": 1024,
        "use_quant_conv": "quant_conv.weight" in infos,
        "use_post_quant_conv": "post_quant_conv.weight" in infos,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in infos,
    }
    if not patched:
        return {**sizes, "force_upcast": True}
    if decoder_widths != widths:
        sizes["decoder_block_out_channels"] = decoder_widths
    statistics = {"batch_norm_eps": 1e-4, "batch_norm_momentum": 0.1, "patch_size": [2, 2]}
    return {**sizes, **statistics}


def _widths(infos: Infos, blocks: str, levels: range) -> list[int]:
    return [infos[f"{blocks}.{level}.resnets.0.conv1.weight"].shape[0] for level in levels]


VAE = Layout(
    name="latent-diffusion autoencoder",
    signs=("decoder.up.0.block.0.conv1.weight",),
    diffusers_sign="decoder.up_blocks.0.resnets.0.conv1.weight",
    rows=_rows,
    config=_config,
)
