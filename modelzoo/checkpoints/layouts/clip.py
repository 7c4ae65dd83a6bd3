"""CLIP text encoders with the names of OpenCLIP or of transformers, and their sizes from shapes."""

from __future__ import annotations

from typing import Any

import torch

from modelzoo.checkpoints.layouts.table import (
    TRANSPOSE,
    Converted,
    Infos,
    Layout,
    Recipe,
    Row,
    count,
    drop,
    rename,
    split,
)
from modelzoo.checkpoints.stream import TensorSource

HEAD_DIM = 64  # of both; no shape shows it
WIDTHS = {768: "clip_l", 1280: "clip_g"}
PROJECTION = "text_projection.weight"
SIGN = "text_model.embeddings.token_embedding.weight"


def _open_clip_rows(infos: Infos) -> list[Row]:
    theirs, ours = "transformer.resblocks.{}", "text_model.encoder.layers.{}"
    heads = [f"{ours}.self_attn.{name}_proj" for name in "qkv"]
    return [
        rename("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        rename("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        split(f"{theirs}.attn.in_proj_weight", [f"{head}.weight" for head in heads]),
        split(f"{theirs}.attn.in_proj_bias", [f"{head}.bias" for head in heads]),
        rename(f"{theirs}.attn.out_proj.*", f"{ours}.self_attn.out_proj.*"),
        rename(f"{theirs}.ln_1.*", f"{ours}.layer_norm1.*"),
        rename(f"{theirs}.ln_2.*", f"{ours}.layer_norm2.*"),
        rename(f"{theirs}.mlp.c_fc.*", f"{ours}.mlp.fc1.*"),
        rename(f"{theirs}.mlp.c_proj.*", f"{ours}.mlp.fc2.*"),
        rename("ln_final.*", "text_model.final_layer_norm.*"),
        # OpenCLIP multiplies by the matrix from the right, a linear layer by its transpose
        rename("text_projection", PROJECTION, TRANSPOSE),
        drop("logit_scale"),
    ]


def _transformers_rows(infos: Infos) -> list[Row]:
    return [
        drop("text_model.embeddings.position_ids"),
        drop("embeddings.position_ids"),
        drop("logit_scale"),
        rename("text_model.*", "text_model.*"),
        rename("text_projection.*", "text_projection.*"),
        # transformers from 5.6 on saves a CLIPTextModel without the prefix
        rename("embeddings.*", "text_model.embeddings.*"),
        rename("encoder.*", "text_model.encoder.*"),
        rename("final_layer_norm.*", "text_model.final_layer_norm.*"),
    ]


def _config(infos: Infos) -> dict[str, Any]:
    vocab_size, dim = infos[SIGN].shape
    projection = infos.get(PROJECTION)
    layer = "text_model.encoder.layers.0"
    return {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocab_size,
        "hidden_size": dim,
        "num_hidden_layers": count(infos, "text_model.encoder.layers."),
        "num_attention_heads": dim // HEAD_DIM,
        "intermediate_size": infos[f"{layer}.mlp.fc1.weight"].shape[0],
        "projection_dim": projection.shape[0] if projection else dim,
        "max_position_embeddings": infos["text_model.embeddings.position_embedding.weight"].shape[
            0
        ],
        "hidden_act": "quick_gelu"
        if WIDTHS.get(dim) == "clip_l"
        else "gelu",  # OpenAI's, OpenCLIP's
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,  # as released: it makes transformers pool at the largest token id
        "pad_token_id": 1,
    }


def with_identity_projection(source: TensorSource) -> TensorSource:
    """Add the identity as projection, which SD3 means where its CLIP-L file has none."""
    if PROJECTION in source:
        return source
    dim, dtype = source.infos[SIGN].shape[1], source.infos[SIGN].dtype
    recipes = {name: Recipe((name,), lambda tensor: tensor) for name in source}
    recipes[PROJECTION] = Recipe((), lambda: torch.eye(dim, dtype=dtype))
    return Converted(source, source.layout, recipes)


OPEN_CLIP = Layout(
    name="OpenCLIP",
    signs=("transformer.resblocks.0.attn.in_proj_weight",),
    diffusers_sign=SIGN,
    rows=_open_clip_rows,
    config=_config,
)
CLIP = Layout(
    name="transformers CLIP",
    signs=(SIGN, "embeddings.token_embedding.weight"),
    diffusers_sign=SIGN,
    rows=_transformers_rows,
    config=_config,
)
