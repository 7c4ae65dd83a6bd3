"""Tokenizers and text encoders made here: deterministic, of fixed length, and telling apart."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from modelzoo.text_encoders import (
    init_text_encoder,
    load_text_encoder,
    load_tokenizer,
    train_tokenizer,
)

CAPTIONS = [f"handwritten digits {a} {b}" for a in ("one", "two") for b in ("three", "four")]
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 300,
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "intermediate_size": 32,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "diffbase": {"output_layers": [1, 2]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    train_tokenizer(CAPTIONS, 300, 24, path / "tokenizer")
    init_text_encoder(CONFIG, 0, path / "text_encoder")
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder / "tokenizer")


def test_tokenization_imports_no_torch():
    code = "import sys, modelzoo.text_encoders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_same_captions_give_the_same_bytes_in_any_order_and_process(folder, tmp_path):
    """Another process: another hash seed, another number of threads."""
    code = (
        "import sys, pathlib; from modelzoo.text_encoders import train_tokenizer;"
        "train_tokenizer(sys.argv[2:], 300, 24, pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *reversed(CAPTIONS)], check=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / "tokenizer" / name).read_bytes()


def test_ids_have_the_fixed_length_and_padding_is_masked(tokenizer):
    encoded = tokenizer.ids(CAPTIONS[0])
    assert len(encoded.ids) == len(encoded.mask) == tokenizer.max_length == 24
    assert not encoded.truncated
    assert 0 < encoded.num_tokens <= 6
    used = sum(encoded.mask)
    assert encoded.mask == [1] * used + [0] * (24 - used)
    assert len(set(encoded.ids[used:])) == 1


def test_the_empty_prompt_is_the_template_alone(tokenizer):
    encoded = tokenizer.ids("")
    assert encoded.num_tokens == 0
    assert sum(encoded.mask) == sum(tokenizer.ids("q").mask) - tokenizer.ids("q").num_tokens


def test_a_long_prompt_is_cut_and_says_so(tokenizer):
    encoded = tokenizer.ids("qzx " * 30)
    assert encoded.truncated
    assert encoded.num_tokens > 24
    assert encoded.mask == [1] * 24


def test_any_text_has_ids(tokenizer):
    for prompt in ("日本語 🎨", "\x00\t", "naïve"):
        assert max(tokenizer.ids(prompt).ids) < tokenizer.vocab_size


def test_the_length_is_at_most_the_released_one(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / "tokenizer" / name).read_bytes())
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_max_length": 131072}))
    assert load_tokenizer(tmp_path).max_length == 512
    path.write_text(json.dumps({**config, "model_max_length": 5}))
    with pytest.raises(ValueError, match="leaves no room for a prompt"):
        load_tokenizer(tmp_path)
    path.write_text(json.dumps({**config, "tokenizer_class": "T5TokenizerFast"}))
    with pytest.raises(ValueError, match="T5TokenizerFast"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer_config\.json"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_vocabulary_that_cannot_hold_the_bytes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vocab_size 260 is too small"):
        train_tokenizer(CAPTIONS, 260, 24, tmp_path)


def encode(folder, tokenizer, prompts):
    encoder = load_text_encoder(folder / "text_encoder", tokenizer, torch.float32)
    encoded = [tokenizer.ids(prompt) for prompt in prompts]
    ids, mask = torch.tensor([e.ids for e in encoded]), torch.tensor([e.mask for e in encoded])
    return encoder.encode_rows(ids, mask)["context"]


def test_an_untrained_encoder_tells_captions_apart(folder, tokenizer):
    """Layers must differ in what they say and agree in scale, or one of them is not heard."""
    context = encode(folder, tokenizer, [CAPTIONS[0], CAPTIONS[1], ""])
    assert context.shape == (3, 24, 48)
    assert (context[0] - context[1]).abs().max() > 1
    scales = [part.std().item() for part in context.split(24, dim=-1)]
    assert 0.5 < min(scales) <= max(scales) < 2
    assert not context.requires_grad


def test_the_seed_decides_about_the_encoder(folder, tmp_path):
    from modelzoo.checkpoints.digest import component_digest

    init_text_encoder(CONFIG, 0, tmp_path / "same")
    init_text_encoder(CONFIG, 1, tmp_path / "other")
    digest = component_digest(folder / "text_encoder")
    assert component_digest(tmp_path / "same") == digest
    assert component_digest(tmp_path / "other") != digest


def test_a_layer_that_is_not_there_is_refused(tmp_path, tokenizer):
    config = {**CONFIG, "diffbase": {"output_layers": [1, 4]}}
    init_text_encoder(config, 0, tmp_path)
    with pytest.raises(ValueError, match=r"output_layers \[1, 4\] must lie between 0"):
        load_text_encoder(tmp_path, tokenizer, torch.float32)


def test_a_tokenizer_of_another_model_is_refused(tmp_path, tokenizer):
    init_text_encoder({**CONFIG, "vocab_size": 270}, 0, tmp_path)
    with pytest.raises(ValueError, match="embedding has 270 rows"):
        load_text_encoder(tmp_path, tokenizer, torch.float32)
