"""T5, Qwen3 and Mistral-3 as ComfyUI's files name them, and their sizes from shapes."""

from __future__ import annotations

from typing import Any

from modelzoo.checkpoints.layouts.table import Infos, Layout, Row, count, drop, rename

MISTRAL_HEAD_DIM = 128  # no shape shows it
OURS = "language_model.model"  # of the language model inside a Mistral3ForConditionalGeneration


def _t5_rows(infos: Infos) -> list[Row]:
    return [
        drop("encoder.embed_tokens.weight"),  # the same tensor as shared.weight
        drop("spiece_model"),  # ComfyUI's copy of the tokenizer
        rename("shared.weight", "shared.weight"),
        rename("encoder.*", "encoder.*"),
    ]


def _t5_config(infos: Infos) -> dict[str, Any]:
    vocab_size, dim = infos["shared.weight"].shape
    attention = "encoder.block.0.layer.0.SelfAttention"
    num_buckets, num_heads = infos[f"{attention}.relative_attention_bias.weight"].shape
    depth = count(infos, "encoder.block.")
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": vocab_size,
        "d_model": dim,
        "d_kv": infos[f"{attention}.q.weight"].shape[0] // num_heads,
        "d_ff": infos["encoder.block.0.layer.1.DenseReluDense.wo.weight"].shape[1],
        "num_layers": depth,
        "num_decoder_layers": depth,
        "num_heads": num_heads,
        "relative_attention_num_buckets": num_buckets,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",  # T5 v1.1
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
    }


def _qwen3_rows(infos: Infos) -> list[Row]:
    return [rename("model.*", "model.*"), rename("lm_head.weight", "lm_head.weight")]


def _qwen3_config(infos: Infos) -> dict[str, Any]:
    (head_dim,) = infos["model.layers.0.self_attn.q_norm.weight"].shape
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **_decoder_sizes(infos, "model", head_dim),
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "attention_bias": False,
        "tie_word_embeddings": "lm_head.weight" not in infos,  # 4B ties them, 8B does not
    }


def _mistral3_rows(infos: Infos) -> list[Row]:
    return [
        drop("tekken_model"),  # ComfyUI's copy of the tokenizer
        rename("model.*", f"{OURS}.*"),
        rename("lm_head.weight", "language_model.lm_head.weight"),
        rename("vision_tower.*", "vision_tower.*"),
        rename("multi_modal_projector.*", "multi_modal_projector.*"),
        # as transformers 5 names them
        rename("model.*", "model.language_model.*"),
        rename("lm_head.weight", "lm_head.weight"),
        rename("vision_tower.*", "model.vision_tower.*"),
        rename("multi_modal_projector.*", "model.multi_modal_projector.*"),
    ]


def _mistral3_config(infos: Infos) -> dict[str, Any]:
    return {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "text_config": {
            "model_type": "mistral",
            **_decoder_sizes(infos, OURS, MISTRAL_HEAD_DIM),
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000_000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
        },
    }


def _decoder_sizes(infos: Infos, prefix: str, head_dim: int) -> dict[str, Any]:
    vocab_size, dim = infos[f"{prefix}.embed_tokens.weight"].shape
    layer = f"{prefix}.layers.0"
    return {
        "vocab_size": vocab_size,
        "hidden_size": dim,
        "num_hidden_layers": count(infos, f"{prefix}.layers."),
        "num_attention_heads": infos[f"{layer}.self_attn.q_proj.weight"].shape[0] // head_dim,
        "num_key_value_heads": infos[f"{layer}.self_attn.k_proj.weight"].shape[0] // head_dim,
        "head_dim": head_dim,
        "intermediate_size": infos[f"{layer}.mlp.down_proj.weight"].shape[1],
        "hidden_act": "silu",
    }


T5 = Layout(
    name="transformers T5",
    signs=("encoder.block.0.layer.0.SelfAttention.q.weight",),
    diffusers_sign="encoder.block.0.layer.0.SelfAttention.q.weight",
    rows=_t5_rows,
    config=_t5_config,
)
QWEN3 = Layout(
    name="transformers Qwen3",
    signs=("model.layers.0.self_attn.q_norm.weight",),
    diffusers_sign="model.layers.0.self_attn.q_norm.weight",
    rows=_qwen3_rows,
    config=_qwen3_config,
)
MISTRAL3 = Layout(
    name="ComfyUI Mistral-3",
    signs=("model.layers.0.self_attn.q_proj.weight",),
    diffusers_sign=f"{OURS}.layers.0.self_attn.q_proj.weight",
    rows=_mistral3_rows,
    config=_mistral3_config,
)
