"""FLUX.1 as Black Forest Labs publish it (flux1-dev.safetensors), and its sizes from shapes."""

from __future__ import annotations

from typing import Any

from modelzoo.checkpoints.layouts import flux
from modelzoo.checkpoints.layouts.table import (
    Infos,
    Layout,
    Row,
    count,
    heads_and_rest,
    info,
    rename,
    split,
)

EMBED = "time_text_embed"


def _rows(infos: Infos) -> list[Row]:
    dim = info(infos, "img_in.weight", "x_embedder.weight").shape[0]
    theirs, ours = "single_blocks.{}", flux.SINGLE
    fused = [f"{ours}.attn.to_q.*", f"{ours}.attn.to_k.*", f"{ours}.attn.to_v.*"]
    return [
        *flux.ends(),
        *flux.embedders(
            {
                "time_in": f"{EMBED}.timestep_embedder",
                "guidance_in": f"{EMBED}.guidance_embedder",  # not in schnell
                "vector_in": f"{EMBED}.text_embedder",
            }
        ),
        *flux.joint_blocks("net.0.proj", "net.2"),
        rename("double_blocks.{}.img_mod.lin.*", f"{flux.JOINT}.norm1.linear.*"),
        rename("double_blocks.{}.txt_mod.lin.*", f"{flux.JOINT}.norm1_context.linear.*"),
        *flux.head_norms(f"{theirs}.norm", (f"{ours}.attn.norm_q", f"{ours}.attn.norm_k")),
        split(f"{theirs}.linear1.*", [*fused, f"{ours}.proj_mlp.*"], heads_and_rest(dim)),
        rename(f"{theirs}.linear2.*", f"{ours}.proj_out.*"),
        rename(f"{theirs}.modulation.lin.*", f"{ours}.norm.linear.*"),
    ]


def _config(infos: Infos) -> dict[str, Any]:
    dim, in_channels = infos["x_embedder.weight"].shape
    (head_dim,) = infos["transformer_blocks.0.attn.norm_q.weight"].shape
    flux.refuse_other_head_dim(head_dim)
    out_channels = infos["proj_out.weight"].shape[0]  # Fill reads 384 channels and writes 64
    return {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": in_channels,
        "out_channels": None if out_channels == in_channels else out_channels,
        "num_layers": count(infos, "transformer_blocks."),
        "num_single_layers": count(infos, "single_transformer_blocks."),
        "attention_head_dim": head_dim,
        "num_attention_heads": dim // head_dim,
        "joint_attention_dim": infos["context_embedder.weight"].shape[1],
        "pooled_projection_dim": infos[f"{EMBED}.text_embedder.linear_1.weight"].shape[1],
        "guidance_embeds": f"{EMBED}.guidance_embedder.linear_1.weight" in infos,
        "axes_dims_rope": [16, 56, 56],
    }


FLUX1 = Layout(
    name="BFL FLUX.1",
    signs=("double_blocks.0.img_mod.lin.weight",),
    diffusers_sign="single_transformer_blocks.0.norm.linear.weight",
    rows=_rows,
    config=_config,
)
