"""What the layouts of FLUX.1 and FLUX.2 by Black Forest Labs have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelzoo.checkpoints.layouts.table import SWAP_HALVES, Row, rename, split

JOINT, SINGLE = "transformer_blocks.{}", "single_transformer_blocks.{}"
STREAMS = {  # BFL's name of a stream, and diffusers' of its query, key, value, output, norms, MLP
    "img": ("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k", "ff"),
    "txt": (
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "norm_added_q",
        "norm_added_k",
        "ff_context",
    ),
}
RELEASED_HEAD_DIM = 128


def ends() -> list[Row]:
    """Rename what comes before and after the blocks; the last modulation is (shift, scale)."""
    return [
        rename("img_in.*", "x_embedder.*"),
        rename("txt_in.*", "context_embedder.*"),
        rename("final_layer.linear.*", "proj_out.*"),
        rename("final_layer.adaLN_modulation.1.*", "norm_out.linear.*", SWAP_HALVES),
    ]


def embedders(names: Mapping[str, str]) -> list[Row]:
    """Rename embeddings of two layers, given BFL's name and diffusers' module of each."""
    return [
        rename(f"{bfl}.{theirs}.*", f"{ours}.{layer}.*")
        for bfl, ours in names.items()
        for theirs, layer in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
    ]


def joint_blocks(mlp_in: str, mlp_out: str) -> list[Row]:
    """Rename and split the joint blocks, given diffusers' names of an MLP's two layers."""
    table = []
    for bfl, (q, k, v, out, norm_q, norm_k, mlp) in STREAMS.items():
        theirs, attn = f"double_blocks.{{}}.{bfl}", f"{JOINT}.attn"
        table += [
            split(f"{theirs}_attn.qkv.*", [f"{attn}.{name}.*" for name in (q, k, v)]),
            *head_norms(f"{theirs}_attn.norm", (f"{attn}.{norm_q}", f"{attn}.{norm_k}")),
            rename(f"{theirs}_attn.proj.*", f"{attn}.{out}.*"),
            rename(f"{theirs}_mlp.0.*", f"{JOINT}.{mlp}.{mlp_in}.*"),
            rename(f"{theirs}_mlp.2.*", f"{JOINT}.{mlp}.{mlp_out}.*"),
        ]
    return table


def head_norms(theirs: str, ours: Iterable[str]) -> list[Row]:
    """Rename the norms of queries and keys; ComfyUI has saved `scale` as `weight` since 2026."""
    return [
        rename(f"{theirs}.{bfl}_norm.{leaf}", f"{norm}.weight")
        for bfl, norm in zip(("query", "key"), ours, strict=True)
        for leaf in ("scale", "weight")
    ]


def refuse_other_head_dim(head_dim: int) -> None:
    """Raise where the rotary axes, which no shape shows, are not those of the released models.

    Raises:
        ValueError: Heads have another width.
    """
    if head_dim != RELEASED_HEAD_DIM:
        raise ValueError(
            f"heads are {head_dim!r} wide, and the rotary axes of such a network are not known: "
            f"released models have {RELEASED_HEAD_DIM}; give a diffusers folder with a config.json"
        )
