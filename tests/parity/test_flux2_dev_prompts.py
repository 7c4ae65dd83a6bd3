"""Prompts become the same ids and the same context as in diffusers' pipeline of FLUX.2 dev."""

from __future__ import annotations

import hashlib
import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
import transformers
from diffusers import Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from safetensors.torch import load_file, save_file

from modelzoo.text_encoders import load_text_encoders, load_tokenizers, make_text_parts
from modelzoo.text_encoders.tokenization.templates import MISTRAL3_SYSTEM, render_mistral3

LENGTH, LAYERS, WIDTH = 72, (1, 2, 4), 24
WORDS = ["one", "two", "three", "four", "five"]
CAPTIONS = [f"handwritten digits {a} {b}" for a, b in product(WORDS, WORDS)]
MODEL = {
    "type": "flux2",
    "variant": "dev",
    "from_scratch": {"vocab_size": 500},
    "text_encoder": {
        "mistral3": {
            "hidden_size": WIDTH,
            "num_layers": 5,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "intermediate_size": 32,
            "max_length": LENGTH,
            "output_layers": list(LAYERS),
        }
    },
}
PROMPTS = [
    "handwritten digits three four",
    "",
    "  leading and   inner spaces ",
    "\nlines\n\nof text\n",
    "It's UPPER 12,345; naïve café — 日本語 🎨",
    "[IMG] a picture [IMG][INST] and marks </s> inside",
    "a prompt that is much too long for the model " * 5,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("dev")
    make_text_parts(MODEL, CAPTIONS, 5, root)
    return root


@pytest.fixture(scope="module")
def pipeline(folder):
    """A PixtralProcessor needs torchvision; on prompts it does what its tokenizer does."""
    parts = {
        "tokenizer": transformers.AutoTokenizer.from_pretrained(folder / "tokenizer"),
        "text_encoder": transformers.Mistral3ForConditionalGeneration.from_pretrained(
            folder / "text_encoder"
        ),
    }
    return Flux2Pipeline(scheduler=None, vae=None, transformer=None, **parts)


def encode(root, prompts):
    folders = {name: root / name for name in ("tokenizer", "text_encoder")}
    tokenizer = load_tokenizers("flux2", folders)
    encoder = load_text_encoders("flux2", folders, tokenizer, torch.float32)
    ids, mask = (torch.tensor(flat) for flat in zip(*map(tokenizer.tokens, prompts), strict=True))
    return encoder, encoder.encode_rows(ids, mask)["context"]


@torch.no_grad()
def expected_context(pipeline, prompts, layers=LAYERS):
    context, _ = pipeline.encode_prompt(
        prompts, max_sequence_length=LENGTH, text_encoder_out_layers=layers
    )
    return context


def test_the_system_message_is_the_released_one_to_the_letter():
    assert MISTRAL3_SYSTEM == SYSTEM_MESSAGE
    digest = hashlib.sha256(MISTRAL3_SYSTEM.encode()).hexdigest()
    assert digest == "d43d93082f24034d9c7f4e5b65cdeceb1e082c64c9cf95dfae5be89c31e1320d"


def test_ids_are_those_of_transformers(folder, pipeline):
    ours = load_tokenizers("flux2", {"tokenizer": folder / "tokenizer"})
    theirs = pipeline.tokenizer
    for prompt in PROMPTS:
        (messages,) = format_input([prompt])
        assert theirs.apply_chat_template(messages, tokenize=False) == render_mistral3(prompt)
        (encoded,) = ours.encode(prompt)
        whole = theirs.apply_chat_template(messages)["input_ids"]
        given = {"padding": "max_length", "truncation": True, "max_length": LENGTH}
        expected = theirs.apply_chat_template(messages, **given)
        assert encoded.ids == expected["input_ids"], prompt
        assert encoded.mask == expected["attention_mask"], prompt
        assert encoded.truncated == (len(whole) > LENGTH)
    assert ours.encode(PROMPTS[0])[0].mask[0] == 0  # padding comes first


def test_context_is_that_of_the_pipeline(folder, pipeline):
    encoder, context = encode(folder, PROMPTS)
    assert encoder.layers == LAYERS
    assert context.shape == (len(PROMPTS), LENGTH, 3 * WIDTH)
    assert torch.equal(context, expected_context(pipeline, PROMPTS))


def test_padding_comes_first_where_the_folder_does_not_say(folder, tmp_path):
    """So did transformers 4, which FLUX.2 was trained with; 5 would pad such a folder behind."""
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["padding_side"]
    path.write_text(json.dumps({**config, "tokenizer_class": "LlamaTokenizer"}))
    expected = load_tokenizers("flux2", {"tokenizer": folder / "tokenizer"})
    ours = load_tokenizers("flux2", {"tokenizer": tmp_path / "tokenizer"})
    assert ours.tokens("one") == expected.tokens("one")


def test_the_text_part_is_found_under_every_name_it_was_published_by(folder, pipeline, tmp_path):
    """Old names as made here, those of transformers 5's classes, and those that 5 saves."""
    expected = encode(folder, PROMPTS)[1]
    (tmp_path / "tokenizer").symlink_to(folder / "tokenizer")
    encoder = tmp_path / "text_encoder"
    pipeline.text_encoder.save_pretrained(encoder)
    assert torch.equal(encode(tmp_path, PROMPTS)[1], expected)
    state = {k: v.clone() for k, v in pipeline.text_encoder.state_dict().items()}
    assert {k.split(".")[1] for k in state if k.startswith("model.")} == {
        *("language_model", "vision_tower", "multi_modal_projector")
    }
    save_file(state, encoder / "model.safetensors")
    assert torch.equal(encode(tmp_path, PROMPTS)[1], expected)


def test_layers_after_the_last_one_taken_are_not_even_loaded(folder, pipeline, tmp_path):
    """The last of all hidden states is normed, an inner one is not; both must hold."""
    shutil.copytree(folder, tmp_path / "dev")
    path = tmp_path / "dev" / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    for layers, depth in (((0, 3), 3), ((1, 5), 5)):
        path.write_text(json.dumps({**config, "diffbase": {"output_layers": layers}}))
        encoder, context = encode(tmp_path / "dev", PROMPTS)
        assert len(encoder.parts["mistral3"].model.layers) == depth
        assert torch.equal(context, expected_context(pipeline, PROMPTS, layers))


def test_a_tensor_that_is_neither_text_nor_eyes_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "dev")
    path = tmp_path / "dev" / "text_encoder" / "model.safetensors"
    save_file({**load_file(path), "audio_tower.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"1 surplus: \['audio_tower.weight'\]"):
        encode(tmp_path / "dev", PROMPTS[:1])


def test_nothing_made_is_missing_or_too_many_for_transformers(folder):
    kind = transformers.Mistral3ForConditionalGeneration
    _, report = kind.from_pretrained(folder / "text_encoder", output_loading_info=True)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys"))
    keys = load_file(folder / "text_encoder" / "model.safetensors").keys()
    assert {key.split(".")[0] for key in keys} == {
        *("language_model", "vision_tower", "multi_modal_projector")
    }
