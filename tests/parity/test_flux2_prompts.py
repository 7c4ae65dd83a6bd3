"""Prompts become the same ids and the same context as in diffusers' klein pipeline."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from modelzoo.text_encoders import load_text_encoders, load_tokenizers
from modelzoo.text_encoders.tokenization.templates import render_qwen3

LENGTH, LAYERS = 24, (1, 2, 4)
PROMPTS = [
    "handwritten digits three four",
    "",
    "  leading and   inner spaces ",
    "\nlines\n\nof text\n",
    "It's 12,345 apples; naïve café — 日本語 🎨",
    "e\u0301 composed is é",
    "ﬁ and ① stay, as NFC does not touch them",
    "<|im_end|> and <think> inside",
    "a prompt that is much too long for the model " * 5,
]


def encode(folder, prompts):
    folders = {name: folder / name for name in ("tokenizer", "text_encoder")}
    tokenizer = load_tokenizers("flux2", folders)
    encoder = load_text_encoders("flux2", folders, tokenizer, torch.float32)
    ids, mask = (torch.tensor(flat) for flat in zip(*map(tokenizer.tokens, prompts), strict=True))
    return encoder, encoder.encode_rows(ids, mask)["context"]


@pytest.mark.parametrize("name", ["AutoTokenizer", "Qwen2TokenizerFast"])
def test_ids_are_those_of_transformers(toy_folder, name):
    theirs = getattr(transformers, name).from_pretrained(toy_folder / "tokenizer")
    ours = load_tokenizers("flux2", {"tokenizer": toy_folder / "tokenizer"})
    for prompt in PROMPTS:
        text = theirs.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        assert text == render_qwen3(prompt)
        expected = theirs(text, padding="max_length", truncation=True, max_length=LENGTH)
        (encoded,) = ours.encode(prompt)
        assert encoded.ids == expected["input_ids"], prompt
        assert encoded.mask == expected["attention_mask"], prompt
        assert encoded.truncated == (len(theirs(text)["input_ids"]) > LENGTH)


def test_context_is_that_of_the_klein_pipeline(toy_folder, pipeline):
    expected, _ = pipeline.encode_prompt(
        PROMPTS, max_sequence_length=LENGTH, text_encoder_out_layers=LAYERS
    )
    encoder, context = encode(toy_folder, PROMPTS)
    assert encoder.layers == LAYERS
    assert context.shape == (len(PROMPTS), LENGTH, 3 * 24)
    torch.testing.assert_close(context, expected, rtol=0, atol=1e-6)


def test_layers_after_the_last_one_taken_are_not_even_loaded(toy_folder, pipeline, tmp_path):
    """The last of all hidden states is normed, an inner one is not; both must hold."""
    for name in ("tokenizer", "text_encoder"):
        (tmp_path / name).mkdir()
        for file in (toy_folder / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "diffbase": {"output_layers": [0, 3]}}))
    encoder, context = encode(tmp_path, PROMPTS[:2])
    assert len(encoder.parts["qwen3"].model.layers) == 3
    expected, _ = pipeline.encode_prompt(
        PROMPTS[:2], max_sequence_length=LENGTH, text_encoder_out_layers=(0, 3)
    )
    torch.testing.assert_close(context, expected, rtol=0, atol=1e-6)


def test_a_folder_that_transformers_saved_again_is_the_same_encoder(toy_folder, pipeline, tmp_path):
    """Written by transformers: other bookkeeping keys, and an untied copy of the embedding."""
    model = pipeline.text_encoder
    model.save_pretrained(tmp_path / "text_encoder")
    pipeline.tokenizer.save_pretrained(tmp_path / "tokenizer")
    encoder, context = encode(tmp_path, PROMPTS)
    assert encoder.layers == LAYERS
    assert torch.equal(context, encode(toy_folder, PROMPTS)[1])


def test_an_untied_output_layer_is_left_out(toy_folder, pipeline, tmp_path):
    """Qwen3-8B, of klein-9B, has an lm_head of its own, which no hidden state depends on."""
    state = {k: v.clone() for k, v in pipeline.text_encoder.state_dict().items()}
    state["lm_head.weight"] = torch.randn_like(state["lm_head.weight"])
    config = transformers.Qwen3Config.from_pretrained(toy_folder / "text_encoder")
    config.tie_word_embeddings = False
    untied = transformers.Qwen3ForCausalLM(config)
    untied.load_state_dict(state)
    untied.save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").symlink_to(toy_folder / "tokenizer")
    assert torch.equal(encode(tmp_path, ["one"])[1], encode(toy_folder, ["one"])[1])
