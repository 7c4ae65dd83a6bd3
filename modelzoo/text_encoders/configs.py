"""From the pipeline's parameters (`model:` in params.yaml) to the config.json of text encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelzoo.text_encoders.tokenization.parts import (
    TextPart,
    check_lengths,
    text_parts,
    text_sizes,
)
from modelzoo.text_encoders.tokenization.templates import MISTRAL3_IMAGE, MISTRAL3_SPECIAL

Sizes = Mapping[str, Any]  # `model.text_encoder.<kind>`, defaults filled in

# what may be given, with the released value: CLIP ViT-L/14, OpenCLIP ViT-bigG/14, T5 v1.1 XXL,
# Qwen3-4B and Mistral-Small-3.2-24B; the number of tokens is the family's
RELEASED: dict[str, dict[str, Any]] = {
    "clip_l": {
        "hidden_size": 768,
        "num_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "projection_dim": 768,
    },
    "clip_g": {
        "hidden_size": 1280,
        "num_layers": 32,
        "num_attention_heads": 20,
        "intermediate_size": 5120,
        "projection_dim": 1280,
    },
    "t5": {
        "hidden_size": 4096,
        "num_layers": 24,
        "num_attention_heads": 64,
        "head_dim": 64,
        "intermediate_size": 10240,
    },
    "qwen3": {
        "hidden_size": 2560,
        "num_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 9728,
        "output_layers": [9, 18, 27],
    },
    "mistral3": {
        "hidden_size": 5120,
        "num_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 32768,
        "output_layers": [10, 20, 30],
    },
}
PROJECTED = {("sdxl", "clip_g"), ("sd3", "clip_l"), ("sd3", "clip_g")}  # the class is the family's
EYES = 16  # width of the pictures' half of a small Mistral-3, which nothing here uses


def text_part_sizes(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give the sizes of the text encoders of a base made from scratch, by kind, in their order.

    Raises:
        ValueError: A text encoder is missing, given twice, or has unknown or impossible sizes.
    """
    given = text_sizes(model)
    filled = {}
    for part in text_parts(model["type"]):
        kinds = [kind for kind in part.kinds if kind in given]
        if len(kinds) != 1:
            if part.is_optional:
                continue
            raise ValueError(
                f"model.text_encoder: {sorted(given)!r} must have exactly one of "
                f"{list(part.kinds)!r} for a base of type {model['type']!r} made from scratch"
            )
        filled[kinds[0]] = _fill(kinds[0], part, given[kinds[0]])
    _check_together(filled)
    return filled


def text_part_configs(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read `model.text_encoder` as the config.json of each text encoder to be made, by kind."""
    vocab_size = model["from_scratch"]["vocab_size"]
    sizes = text_part_sizes(model)
    configs = {kind: CONFIGS[kind](each, vocab_size) for kind, each in sizes.items()}
    for kind, config in configs.items():
        if (model["type"], kind) in PROJECTED:
            config["architectures"] = ["CLIPTextModelWithProjection"]
    return configs


def _fill(kind: str, part: TextPart, given: Sizes) -> dict[str, Any]:
    known = {**RELEASED[kind], "max_length": part.length}
    name = f"model.text_encoder.{kind}"
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"{name}: unknown are {unknown!r}; it takes {sorted(known)!r}")
    sizes = {**known, **given}
    if "projection_dim" in known:  # both CLIPs were released with a square projection
        sizes["projection_dim"] = given.get("projection_dim", sizes["hidden_size"])
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if "head_dim" not in known and width % heads:
        raise ValueError(
            f"{name}.hidden_size {width!r} does not divide into num_attention_heads {heads!r}: "
            "change either"
        )
    return sizes


def _check_together(sizes: Mapping[str, Sizes]) -> None:
    """Compare what must agree where the states of several text encoders meet."""
    check_lengths({kind: each["max_length"] for kind, each in sizes.items()})
    if not {"clip_l", "clip_g"} <= sizes.keys():
        return
    both = sizes["clip_l"]["hidden_size"] + sizes["clip_g"]["hidden_size"]
    if "t5" in sizes and sizes["t5"]["hidden_size"] < both:
        raise ValueError(
            f"model.text_encoder.t5.hidden_size {sizes['t5']['hidden_size']!r} is less than the "
            f"{both!r} channels of clip_l and clip_g together: raise it"
        )


def _clip(activation: str, sizes: Sizes, vocab_size: int) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocab_size,
        "hidden_size": sizes["hidden_size"],
        "intermediate_size": sizes["intermediate_size"],
        "num_hidden_layers": sizes["num_layers"],
        "num_attention_heads": sizes["num_attention_heads"],
        "max_position_embeddings": sizes["max_length"],
        "projection_dim": sizes["projection_dim"],
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        # as released: 2 tells transformers to pool at the largest id, the end mark
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "dtype": "float32",
    }


def _t5(sizes: Sizes, vocab_size: int) -> dict[str, Any]:
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": vocab_size,
        "d_model": sizes["hidden_size"],
        "d_kv": sizes["head_dim"],
        "d_ff": sizes["intermediate_size"],
        "num_layers": sizes["num_layers"],
        "num_decoder_layers": sizes["num_layers"],
        "num_heads": sizes["num_attention_heads"],
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "use_cache": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def _decoder(sizes: Sizes, vocab_size: int) -> dict[str, Any]:
    apart = ("num_layers", "max_length", "output_layers")
    return {
        "vocab_size": vocab_size,
        "num_hidden_layers": sizes["num_layers"],
        **{k: v for k, v in sizes.items() if k not in apart},
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _qwen3(sizes: Sizes, vocab_size: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **_decoder(sizes, vocab_size),
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "attention_bias": False,
        "diffbase": {"output_layers": list(sizes["output_layers"])},
    }


def _mistral3(sizes: Sizes, vocab_size: int) -> dict[str, Any]:
    text = {
        "model_type": "mistral",
        **_decoder(sizes, vocab_size),
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000_000.0,
        "sliding_window": None,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": EYES,
        "intermediate_size": EYES,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "head_dim": EYES,
        "patch_size": 14,
        "image_size": 1540,
    }
    return {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "text_config": text,
        "vision_config": vision,
        "image_token_index": MISTRAL3_SPECIAL.index(MISTRAL3_IMAGE),
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
        "tie_word_embeddings": True,
        "dtype": "float32",
        "diffbase": {"output_layers": list(sizes["output_layers"])},
    }


CONFIGS: dict[str, Callable[[Sizes, int], dict[str, Any]]] = {
    "clip_l": lambda sizes, vocab_size: _clip("quick_gelu", sizes, vocab_size),
    "clip_g": lambda sizes, vocab_size: _clip("gelu", sizes, vocab_size),
    "t5": _t5,
    "qwen3": _qwen3,
    "mistral3": _mistral3,
}
