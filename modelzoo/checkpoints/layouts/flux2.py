"""FLUX.2 as Black Forest Labs publish it (flux2-dev.safetensors), and its sizes from shapes."""

from __future__ import annotations

from typing import Any

from modelzoo.checkpoints.layouts import flux
from modelzoo.checkpoints.layouts.table import Infos, Layout, Row, count, rename

EMBED = "time_guidance_embed"
MODULATIONS = (
    "double_stream_modulation_img",
    "double_stream_modulation_txt",
    "single_stream_modulation",
)


def _rows(infos: Infos) -> list[Row]:
    theirs, ours = "single_blocks.{}", f"{flux.SINGLE}.attn"
    return [
        *flux.ends(),
        *flux.embedders(
            {
                "time_in": f"{EMBED}.timestep_embedder",
                "guidance_in": f"{EMBED}.guidance_embedder",  # only in dev
            }
        ),
        *(rename(f"{name}.lin.*", f"{name}.linear.*") for name in MODULATIONS),
        *flux.joint_blocks("linear_in", "linear_out"),
        *flux.head_norms(f"{theirs}.norm", (f"{ours}.norm_q", f"{ours}.norm_k")),
        rename(f"{theirs}.linear1.*", f"{ours}.to_qkv_mlp_proj.*"),  # fused in both, unlike FLUX.1
        rename(f"{theirs}.linear2.*", f"{ours}.to_out.*"),
    ]


def _config(infos: Infos) -> dict[str, Any]:
    dim, in_channels = infos["x_embedder.weight"].shape
    (head_dim,) = infos["transformer_blocks.0.attn.norm_q.weight"].shape
    flux.refuse_other_head_dim(head_dim)
    out_channels = infos["proj_out.weight"].shape[0]
    first_embedding = infos[f"{EMBED}.timestep_embedder.linear_1.weight"]
    return {
        "_class_name": "Flux2Transformer2DModel",
        "patch_size": 1,
        "in_channels": in_channels,
        "out_channels": None if out_channels == in_channels else out_channels,
        "num_layers": count(infos, "transformer_blocks."),
        "num_single_layers": count(infos, "single_transformer_blocks."),
        "attention_head_dim": head_dim,
        "num_attention_heads": dim // head_dim,
        "joint_attention_dim": infos["context_embedder.weight"].shape[1],
        "timestep_guidance_channels": first_embedding.shape[1],
        "mlp_ratio": infos["transformer_blocks.0.ff.linear_out.weight"].shape[1] / dim,
        "axes_dims_rope": [32, 32, 32, 32],
        "rope_theta": 2000,
        "eps": 1e-6,
        "guidance_embeds": f"{EMBED}.guidance_embedder.linear_1.weight" in infos,
    }


FLUX2 = Layout(
    name="BFL FLUX.2",
    signs=("double_stream_modulation_img.lin.weight",),
    diffusers_sign="double_stream_modulation_img.linear.weight",
    rows=_rows,
    config=_config,
)
