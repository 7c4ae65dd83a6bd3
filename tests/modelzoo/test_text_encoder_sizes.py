"""Text encoders at full size, on the meta device: names, shapes and counts of what was released."""

from __future__ import annotations

import pytest
import torch
import transformers

from modelzoo.text_encoders.clip import ClipHidden, ClipPooled, ClipProjected
from modelzoo.text_encoders.configs import text_part_configs
from modelzoo.text_encoders.mistral3 import Mistral3TextEncoder
from modelzoo.text_encoders.qwen3 import Qwen3TextEncoder
from modelzoo.text_encoders.t5 import T5TextEncoder

QWEN3_8B = {"hidden_size": 4096, "intermediate_size": 12288}
CLIP_ROWS, T5_ROWS, QWEN3_ROWS, MISTRAL3_ROWS = 49408, 32128, 151936, 131072


def config(family: str, kind: str, vocab_size: int, sizes: dict | None = None) -> dict:
    """The config.json of the released sizes, which are the defaults."""
    others = {"sdxl": {"clip_l": {}, "clip_g": {}}, "flux": {"clip_l": {}, "t5": {}}}
    encoders = {**others.get(family, {}), kind: sizes or {}}
    model = {"type": family, "text_encoder": encoders, "from_scratch": {"vocab_size": vocab_size}}
    return text_part_configs(model)[kind]


def whole(values: dict, depth: int) -> dict:
    """Take the last hidden state, for which every tensor but the output layer is needed."""
    return {**values, "diffbase": {"output_layers": [depth]}}


RELEASED = {
    # architectures.md, section 2; what is subtracted is the output layer, which no row needs
    "CLIP-L": (ClipPooled, config("flux", "clip_l", CLIP_ROWS), 123_060_480),
    "CLIP-L projected": (ClipProjected, config("flux", "clip_l", CLIP_ROWS), 123_650_304),
    "CLIP-G": (ClipProjected, config("sdxl", "clip_g", CLIP_ROWS), 694_659_840),
    "T5-XXL": (T5TextEncoder, config("flux", "t5", T5_ROWS), 4_762_310_656),
    "Qwen3-4B": (Qwen3TextEncoder, whole(config("flux2", "qwen3", QWEN3_ROWS), 36), 4_022_468_096),
    "Qwen3-8B": (
        Qwen3TextEncoder,
        whole(config("flux2", "qwen3", QWEN3_ROWS, QWEN3_8B), 36),
        8_190_735_360 - QWEN3_ROWS * 4096,
    ),
    "Mistral-3": (
        Mistral3TextEncoder,
        whole(config("flux2", "mistral3", MISTRAL3_ROWS), 40),
        23_572_403_200 - MISTRAL3_ROWS * 5120,
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_are_as_many_as_released(name):
    kind, values, expected = RELEASED[name]
    with torch.device("meta"):
        encoder = kind(values)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("CLIP-L projected", "CLIPTextModelWithProjection"),
        ("CLIP-G", "CLIPTextModelWithProjection"),
        ("T5-XXL", "T5EncoderModel"),
        ("Qwen3-4B", "Qwen3ForCausalLM"),
        ("Mistral-3", "Mistral3ForConditionalGeneration"),
    ],
)
def test_every_tensor_of_transformers_has_its_place(name, theirs):
    """Published names lead to ours, shape for shape; the rest is known to be unused."""
    kind, values, _ = RELEASED[name]
    cls = getattr(transformers, theirs)
    with torch.device("meta"):
        ours = {key: tensor.shape for key, tensor in kind(values).state_dict().items()}
        published = cls(cls.config_class.from_dict(dict(values))).state_dict()
    found, unused = {}, set()
    with torch.device("meta"):
        encoder = kind(values)
    for key, tensor in published.items():
        own = encoder.own_name(key)
        if own is None:
            unused.add(key)
        else:
            found[own] = tensor.shape
    assert found == ours
    eyes = ("model.vision_tower.", "model.multi_modal_projector.")
    assert {key for key in unused if not key.startswith(eyes)} <= {"lm_head.weight"}


@pytest.mark.parametrize(
    ("name", "layers"), [("Qwen3-4B", (9, 18, 27)), ("Mistral-3", (10, 20, 30))]
)
def test_released_layers_are_the_default_and_no_more_are_built(name, layers):
    kind, values, _ = RELEASED[name]
    del (values := dict(values))["diffbase"]
    with torch.device("meta"):
        encoder = kind(values)
    assert encoder.layers == layers
    assert len(encoder.model.layers) == layers[-1]


def test_sdxl_builds_no_last_layer_of_clip_l():
    with torch.device("meta"):
        encoder = ClipHidden(config("sdxl", "clip_l", CLIP_ROWS))
    assert encoder.layers == (11,)
    assert len(encoder.text_model.encoder.layers) == 11
