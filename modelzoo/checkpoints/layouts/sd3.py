"""SD3.5 as Stability publish it (sd3.5_large.safetensors), and its sizes from shapes."""

from __future__ import annotations

from math import isqrt
from typing import Any

from modelzoo.checkpoints.layouts.table import (
    SWAP_HALVES,
    Infos,
    Layout,
    Row,
    count,
    rename,
    split,
)

THEIRS, OURS = "joint_blocks.{}", "transformer_blocks.{}"
ATTENTIONS = {  # Stability's attention, and diffusers' query, key, value, output, norms
    "x_block.attn": ("attn", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"),
    "x_block.attn2": ("attn2", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"),
    "context_block.attn": (
        "attn",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "norm_added_q",
        "norm_added_k",
    ),
}


def _rows(infos: Infos) -> list[Row]:
    last = count(infos, "joint_blocks.", "transformer_blocks.") - 1
    return [
        rename("pos_embed", "pos_embed.pos_embed"),
        rename("x_embedder.proj.*", "pos_embed.proj.*"),
        rename("t_embedder.mlp.0.*", "time_text_embed.timestep_embedder.linear_1.*"),
        rename("t_embedder.mlp.2.*", "time_text_embed.timestep_embedder.linear_2.*"),
        rename("y_embedder.mlp.0.*", "time_text_embed.text_embedder.linear_1.*"),
        rename("y_embedder.mlp.2.*", "time_text_embed.text_embedder.linear_2.*"),
        rename("context_embedder.*", "context_embedder.*"),
        rename("final_layer.linear.*", "proj_out.*"),
        rename("final_layer.adaLN_modulation.1.*", "norm_out.linear.*", SWAP_HALVES),
        *_attentions(),
        rename(f"{THEIRS}.x_block.adaLN_modulation.1.*", f"{OURS}.norm1.linear.*"),
        rename(  # the last context is only normalised, so it has the final layer's order
            f"joint_blocks.{last}.context_block.adaLN_modulation.1.*",
            f"transformer_blocks.{last}.norm1_context.linear.*",
            SWAP_HALVES,
        ),
        rename(f"{THEIRS}.context_block.adaLN_modulation.1.*", f"{OURS}.norm1_context.linear.*"),
        rename(f"{THEIRS}.x_block.mlp.fc1.*", f"{OURS}.ff.net.0.proj.*"),
        rename(f"{THEIRS}.x_block.mlp.fc2.*", f"{OURS}.ff.net.2.*"),
        rename(f"{THEIRS}.context_block.mlp.fc1.*", f"{OURS}.ff_context.net.0.proj.*"),
        rename(f"{THEIRS}.context_block.mlp.fc2.*", f"{OURS}.ff_context.net.2.*"),
    ]


def _attentions() -> list[Row]:
    table = []
    for theirs, (attn, q, k, v, out, norm_q, norm_k) in ATTENTIONS.items():
        theirs, ours = f"{THEIRS}.{theirs}", f"{OURS}.{attn}"
        table += [
            split(f"{theirs}.qkv.*", [f"{ours}.{name}.*" for name in (q, k, v)]),
            rename(f"{theirs}.ln_q.*", f"{ours}.{norm_q}.*"),
            rename(f"{theirs}.ln_k.*", f"{ours}.{norm_k}.*"),
            rename(f"{theirs}.proj.*", f"{ours}.{out}.*"),
        ]
    return table


def _config(infos: Infos) -> dict[str, Any]:
    dim, in_channels, patch_size, _ = infos["pos_embed.proj.weight"].shape
    norm = infos.get("transformer_blocks.0.attn.norm_q.weight")  # SD3.0 has none
    head_dim = norm.shape[0] if norm else 64
    depth = count(infos, "transformer_blocks.")
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch_size,
        "in_channels": in_channels,
        "num_layers": depth,
        "attention_head_dim": head_dim,
        "num_attention_heads": dim // head_dim,
        "joint_attention_dim": infos["context_embedder.weight"].shape[1],
        "caption_projection_dim": dim,
        "pooled_projection_dim": infos["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        "out_channels": infos["proj_out.weight"].shape[0] // patch_size**2,
        "pos_embed_max_size": isqrt(infos["pos_embed.pos_embed"].shape[1]),
        "dual_attention_layers": [
            i for i in range(depth) if f"transformer_blocks.{i}.attn2.to_q.weight" in infos
        ],
        "qk_norm": "rms_norm" if norm else None,
    }


SD3 = Layout(
    name="Stability SD3.5",
    signs=("joint_blocks.0.x_block.attn.qkv.weight",),
    diffusers_sign="pos_embed.pos_embed",
    rows=_rows,
    config=_config,
)
