"""SDXL's UNet as Stability publish it (sd_xl_base_1.0.safetensors), and its sizes from shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

from modelzoo.checkpoints.layouts.table import Infos, Layout, Row, count, rename

HEAD_DIM = 64  # no shape shows it
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


class _Levels(NamedTuple):
    """What numbers the blocks: Stability counts them through, diffusers level by level."""

    depth: int  # levels
    layers: int  # residual blocks of a level on the way down; one more on the way up
    attending: frozenset[int]  # levels with attention, finest first


def _rows(infos: Infos) -> list[Row]:
    levels = _levels(infos)
    table = [
        rename("time_embed.0.*", "time_embedding.linear_1.*"),
        rename("time_embed.2.*", "time_embedding.linear_2.*"),
        rename("label_emb.0.0.*", "add_embedding.linear_1.*"),
        rename("label_emb.0.2.*", "add_embedding.linear_2.*"),
        rename("input_blocks.0.0.*", "conv_in.*"),
        rename("out.0.*", "conv_norm_out.*"),
        rename("out.2.*", "conv_out.*"),
        *_resnet("middle_block.0", "mid_block.resnets.0"),
        rename("middle_block.1.*", "mid_block.attentions.0.*"),
        *_resnet("middle_block.2", "mid_block.resnets.1"),
    ]
    for level in range(levels.depth):
        table += [*_down(levels, level), *_up(levels, level)]
    return table


def _down(levels: _Levels, level: int) -> list[Row]:
    first, ours, table = 1 + level * (levels.layers + 1), f"down_blocks.{level}", []
    for layer in range(levels.layers):
        table += _resnet(f"input_blocks.{first + layer}.0", f"{ours}.resnets.{layer}")
        table += [rename(f"input_blocks.{first + layer}.1.*", f"{ours}.attentions.{layer}.*")]
    last = f"input_blocks.{first + levels.layers}.0.op.*"
    return [*table, rename(last, f"{ours}.downsamplers.0.conv.*")]


def _up(levels: _Levels, level: int) -> list[Row]:
    first, ours, table = level * (levels.layers + 1), f"up_blocks.{level}", []
    attends = levels.depth - 1 - level in levels.attending
    for layer in range(levels.layers + 1):
        table += _resnet(f"output_blocks.{first + layer}.0", f"{ours}.resnets.{layer}")
        if attends:
            table += [rename(f"output_blocks.{first + layer}.1.*", f"{ours}.attentions.{layer}.*")]
    last = f"output_blocks.{first + levels.layers}.{2 if attends else 1}.conv.*"
    return [*table, rename(last, f"{ours}.upsamplers.0.conv.*")]


def _resnet(theirs: str, ours: str) -> list[Row]:
    return [rename(f"{theirs}.{name}.*", f"{ours}.{RESNET[name]}.*") for name in RESNET]


def _levels(infos: Infos) -> _Levels:
    if "conv_in.weight" in infos:
        depth, layers = count(infos, "down_blocks."), count(infos, "down_blocks.0.resnets.")
        norms = [f"down_blocks.{level}.attentions.0.norm.weight" for level in range(depth)]
    else:
        blocks = count(infos, "input_blocks.")
        shrinking = [i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in infos]
        depth, layers = len(shrinking) + 1, [*shrinking, blocks][0] - 1
        firsts = [1 + level * (layers + 1) for level in range(depth)]
        norms = [f"input_blocks.{first}.1.norm.weight" for first in firsts]
    return _Levels(depth, layers, frozenset(i for i, name in enumerate(norms) if name in infos))


def _config(infos: Infos) -> dict[str, Any]:
    levels = _levels(infos)
    widths = [
        infos[f"down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels.depth)
    ]
    attention = [i in levels.attending for i in range(levels.depth)]
    depths = [
        max(count(infos, f"down_blocks.{i}.attentions.0.transformer_blocks."), 1)  # 1: not used
        for i in range(levels.depth)
    ]
    mid = count(infos, "mid_block.attentions.0.transformer_blocks.")
    context = infos["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 128,
        "in_channels": infos["conv_in.weight"].shape[1],
        "out_channels": infos["conv_out.weight"].shape[0],
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attention[::-1]],
        "block_out_channels": widths,
        "layers_per_block": levels.layers,
        **_depths(depths, mid),
        "attention_head_dim": [width // HEAD_DIM for width in widths],  # of heads the number
        "cross_attention_dim": context,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": infos["add_embedding.linear_1.weight"].shape[1],
    }


def _depths(levels: list[int], mid: int) -> dict[str, Any]:
    if mid == levels[-1]:
        return {"transformer_layers_per_block": levels}
    return {
        "transformer_layers_per_block": [*levels, mid],
        "reverse_transformer_layers_per_block": levels[::-1],
    }


SDXL = Layout(
    name="Stability SDXL",
    signs=("label_emb.0.0.weight",),
    diffusers_sign="add_embedding.linear_1.weight",
    rows=_rows,
    config=_config,
)
