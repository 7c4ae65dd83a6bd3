"""Prompts become the ids, contexts and pooled vectors of diffusers' SDXL, FLUX.1 and SD3."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from modelzoo.text_encoders import TEXT_PARTS, load_text_encoders, load_tokenizers, make_text_parts

WORDS = ["one", "two", "three", "four", "five"]
CAPTIONS = [f"handwritten digits {a} {b}" for a, b in product(WORDS, WORDS)]
LENGTHS = {"clip_l": 20, "clip_g": 20, "t5": 24}
SIZES = {
    "clip_l": {
        "hidden_size": 16,
        "num_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "projection_dim": 16,
        "max_length": LENGTHS["clip_l"],
    },
    "clip_g": {
        "hidden_size": 24,
        "num_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 32,
        "projection_dim": 20,
        "max_length": LENGTHS["clip_g"],
    },
    "t5": {
        "hidden_size": 48,
        "num_layers": 2,
        "num_attention_heads": 3,
        "head_dim": 8,
        "intermediate_size": 40,
        "max_length": LENGTHS["t5"],
    },
}
PIPELINES = {
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "flux": diffusers.FluxPipeline,
    "sd3": diffusers.StableDiffusion3Pipeline,
}
CLASSES = {
    "sdxl": ["CLIPTextModel", "CLIPTextModelWithProjection"],
    "flux": ["CLIPTextModel", "T5EncoderModel"],
    "sd3": ["CLIPTextModelWithProjection", "CLIPTextModelWithProjection", "T5EncoderModel"],
}
PROMPTS = [
    "handwritten digits three four",
    "",
    "  leading and   inner spaces ",
    "\nlines\n\nof text\t\n",
    "WOW! Upper CASE!",
    "It's 12,345 apples; naïve café — 日本語 🎨",
    "e\u0301 composed is é",
    "ﬁ and ① stay, as NFC does not touch them",
    "<|endoftext|> and <|StartOfText|>, <|ENDOFTEXT|>, </s>, <pad> and <extra_id_3> inside",
    "a prompt that is much too long for the model " * 5,
]


def model(family: str) -> dict:
    kinds = [kind for part in TEXT_PARTS[family] for kind in part.kinds]
    return {
        "type": family,
        "text_encoder": {kind: SIZES[kind] for kind in kinds},
        "from_scratch": {"vocab_size": 600},
    }


def folders(root: Path, family: str) -> dict[str, Path]:
    names = [name for part in TEXT_PARTS[family] for name in (part.tokenizer, part.encoder)]
    return {name: root / name for name in names if (root / name).is_dir()}


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Give biases and norms values that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="module", params=list(PIPELINES))
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def made(family, tmp_path_factory) -> Path:
    """The text half of a base as we make it."""
    root = tmp_path_factory.mktemp(family)
    make_text_parts(model(family), CAPTIONS, 5, root)
    return root


@pytest.fixture(scope="module")
def saved(family, made, tmp_path_factory) -> Path:
    """The same kind of model as transformers 5 saves it: tokenizer.json, CLIP without a prefix."""
    root = tmp_path_factory.mktemp(f"{family}_saved")
    for name, part in parts_of(made, family).items():
        if name.startswith("text_encoder"):
            randomize(part, 7)
        part.save_pretrained(root / name)
    return root


@pytest.fixture(params=["made", "saved"])
def root(request) -> Path:
    return request.getfixturevalue(request.param)


def parts_of(root: Path, family: str) -> dict:
    """Load a model's tokenizers and text encoders as diffusers would."""
    parts = {}
    for part, name in zip(TEXT_PARTS[family], CLASSES[family], strict=True):
        if not (root / part.encoder).is_dir():
            parts.update({part.tokenizer: None, part.encoder: None})
            continue
        kind = "CLIPTokenizer" if name.startswith("CLIP") else "T5TokenizerFast"
        parts[part.tokenizer] = getattr(transformers, kind).from_pretrained(root / part.tokenizer)
        parts[part.encoder] = getattr(transformers, name).from_pretrained(root / part.encoder)
    return parts


def pipeline_of(root: Path, family: str, **others):
    network = {"unet": None} if family == "sdxl" else {"transformer": None}
    return PIPELINES[family](
        **{"vae": None, "scheduler": None, **network, **parts_of(root, family), **others}
    )


@torch.no_grad()  # as in a pipeline's __call__: attention has other kernels, and bits, with it
def expected_rows(pipe, family: str, prompts: list[str]) -> dict[str, torch.Tensor]:
    if family == "sdxl":
        context, _, pooled, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
    elif family == "flux":
        context, pooled, _ = pipe.encode_prompt(prompts, None, max_sequence_length=LENGTHS["t5"])
    else:
        context, _, pooled, _ = pipe.encode_prompt(
            *(prompts, None, None),
            do_classifier_free_guidance=False,
            max_sequence_length=LENGTHS["t5"],
        )
    return {"context": context, "pooled": pooled}


def our_rows(root: Path, family: str, prompts: list[str], dtype=torch.float32, **options):
    tokenizer = load_tokenizers(family, folders(root, family), options.pop("lengths", None))
    encoder = load_text_encoders(family, folders(root, family), tokenizer, dtype, **options)
    ids, mask = (torch.tensor(flat) for flat in zip(*map(tokenizer.tokens, prompts), strict=True))
    return encoder.encode_rows(ids, mask)


def assert_equal(ours, expected, atol=0.0):
    assert ours.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], rtol=0, atol=atol)


def test_ids_and_masks_are_those_of_transformers(root, family):
    ours = load_tokenizers(family, folders(root, family))
    theirs = [part for name, part in parts_of(root, family).items() if "tokenizer" in name]
    for prompt in PROMPTS:
        for encoded, tokenizer in zip(ours.encode(prompt), theirs, strict=True):
            length = LENGTHS[encoded.part]
            given = {"padding": "max_length", "truncation": True, "max_length": length}
            expected = tokenizer(prompt, **given)
            assert encoded.ids == expected["input_ids"], (encoded.part, prompt)
            assert encoded.mask == expected["attention_mask"], (encoded.part, prompt)
            whole = len(tokenizer(prompt)["input_ids"])
            assert encoded.truncated == (whole > length)
            assert encoded.num_tokens == whole - len(tokenizer("")["input_ids"])


def test_rows_are_those_of_the_pipeline(root, family):
    expected = expected_rows(pipeline_of(root, family), family, PROMPTS)
    assert_equal(our_rows(root, family, PROMPTS), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_in_half_precision_are_those_of_the_pipeline(saved, family, dtype):
    """T5 keeps a part of its weights in float32 under float16, and only there."""
    parts = {}
    for part, name in zip(TEXT_PARTS[family], CLASSES[family], strict=True):
        kind = getattr(transformers, name)
        parts[part.encoder] = kind.from_pretrained(saved / part.encoder, dtype=dtype)
    pipe = pipeline_of(saved, family, **parts)
    ours = our_rows(saved, family, PROMPTS, dtype)
    assert {row.dtype for row in ours.values()} == {dtype}
    assert_equal(ours, expected_rows(pipe, family, PROMPTS), atol=0)


def test_made_weights_have_the_names_that_transformers_4_wrote(made, family):
    for part, name in zip(TEXT_PARTS[family], CLASSES[family], strict=True):
        keys = load_file(made / part.encoder / "model.safetensors").keys()
        if name == "T5EncoderModel":
            assert all(
                key.startswith("encoder.block.")
                for key in keys - {"shared.weight"} - {"encoder.final_layer_norm.weight"}
            )
        else:
            projection = {"text_projection.weight"} if name.endswith("Projection") else set()
            assert keys >= projection
            assert all(key.startswith("text_model.") for key in keys - projection)


def test_no_tensor_is_missing_or_too_many_for_transformers(made, family, caplog):
    for part, name in zip(TEXT_PARTS[family], CLASSES[family], strict=True):
        kind = getattr(transformers, name)
        _, report = kind.from_pretrained(made / part.encoder, output_loading_info=True)
        assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys"))


def test_the_empty_prompt_is_zeros_where_sdxl_wants_it(tmp_path):
    make_text_parts(model("sdxl"), CAPTIONS, 5, tmp_path)
    pipe = pipeline_of(tmp_path, "sdxl", force_zeros_for_empty_prompt=True)
    context, empty, pooled, empty_pooled = pipe.encode_prompt(
        PROMPTS[:1], do_classifier_free_guidance=True
    )
    ours = our_rows(tmp_path, "sdxl", [PROMPTS[0], "", " \n"], zero_empty=True)
    prompted, zero = ({k: v[i : i + 1] for k, v in ours.items()} for i in (0, 1))
    assert_equal(prompted, {"context": context, "pooled": pooled}, atol=1e-6)
    assert_equal(zero, {"context": empty, "pooled": empty_pooled})
    assert not ours["context"][2].any()


def test_sd3_without_t5_has_zeros_in_its_place(tmp_path):
    make_text_parts(model("sd3"), CAPTIONS, 5, tmp_path)
    for name in ("tokenizer_3", "text_encoder_3"):
        shutil.rmtree(tmp_path / name)
    sizes = {"sample_size": 4, "num_layers": 1, "attention_head_dim": 4, "num_attention_heads": 1}
    widths = {"joint_attention_dim": 4096, "caption_projection_dim": 4, "pooled_projection_dim": 8}
    transformer = diffusers.SD3Transformer2DModel(**sizes, **widths)
    pipe = pipeline_of(tmp_path, "sd3", transformer=transformer)
    ours = our_rows(tmp_path, "sd3", PROMPTS, lengths={"t5": LENGTHS["t5"]})
    assert_equal(ours, expected_rows(pipe, "sd3", PROMPTS))
    assert our_rows(tmp_path, "sd3", [""])["context"].shape[1] == LENGTHS["clip_l"] + 256


def test_sd3_takes_a_clip_l_without_a_projection_as_unprojected(tmp_path):
    """The published clip_l.safetensors has none; the file made here has the identity."""
    make_text_parts(model("sd3"), CAPTIONS, 5, tmp_path)
    expected = our_rows(tmp_path, "sd3", PROMPTS)
    drop_projection(tmp_path / "text_encoder")
    assert_equal(our_rows(tmp_path, "sd3", PROMPTS), expected, atol=0)
    drop_projection(tmp_path / "text_encoder_2")
    with pytest.raises(ValueError, match=r"1 missing: \['text_projection.weight'\]"):
        our_rows(tmp_path, "sd3", PROMPTS)


def drop_projection(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_flux_takes_the_whole_t5_and_a_projected_clip(tmp_path):
    """What no row depends on is known by name: the decoder, a projection, old position ids."""
    make_text_parts(model("flux"), CAPTIONS, 5, tmp_path)
    expected = our_rows(tmp_path, "flux", PROMPTS)
    clip, t5 = (
        tmp_path / name / "model.safetensors" for name in ("text_encoder", "text_encoder_2")
    )
    table = {"text_model.embeddings.position_ids": torch.arange(20).expand(1, -1).clone()}
    projection = {"text_projection.weight": torch.zeros(16, 16)}
    save_file({**load_file(clip), **table, **projection}, clip)
    state = load_file(t5)
    more = {"encoder.embed_tokens.weight": state["shared.weight"].clone()}
    save_file({**state, **more, "decoder.block.0.x": torch.zeros(1)}, t5)
    assert_equal(our_rows(tmp_path, "flux", PROMPTS), expected, atol=0)
    save_file({**state, "encoder.block.9.x": torch.zeros(1)}, t5)
    with pytest.raises(ValueError, match=r"1 surplus: \['encoder.block.9.x'\]"):
        our_rows(tmp_path, "flux", PROMPTS)


def test_pooling_finds_the_end_mark_by_either_rule(tmp_path):
    """Released configurations say `eos_token_id: 2` and mean the largest id; new ones name it."""
    make_text_parts(model("flux"), CAPTIONS, 5, tmp_path)
    expected = our_rows(tmp_path, "flux", PROMPTS)
    path = tmp_path / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    end = json.loads((tmp_path / "tokenizer" / "vocab.json").read_text())["<|endoftext|>"]
    path.write_text(json.dumps({**config, "eos_token_id": end}))
    assert_equal(our_rows(tmp_path, "flux", PROMPTS), expected, atol=0)
    path.write_text(json.dumps({**config, "eos_token_id": end - 1}))  # the start mark
    assert_equal(
        our_rows(tmp_path, "flux", PROMPTS),
        expected_rows(pipeline_of(tmp_path, "flux"), "flux", PROMPTS),
    )


FLAGS = {"lstrip": False, "rstrip": False, "single_word": False}


@pytest.mark.parametrize("style", ["dictionaries", "decoder"])
def test_tokenizers_as_published_give_the_ids_of_transformers(style, tmp_path):
    """Marks as dictionaries (SDXL) or in a table (FLUX.1), no tokenizer.json, T5's extra ids."""
    for family in ("sdxl", "flux"):
        make_text_parts(model(family), CAPTIONS, 5, tmp_path / family)
    for family, name in (("sdxl", "tokenizer"), ("sdxl", "tokenizer_2"), ("flux", "tokenizer")):
        path = tmp_path / family / name / "tokenizer_config.json"
        config = json.loads(path.read_text())
        vocab = json.loads((path.parent / "vocab.json").read_text())
        marks = {config[mark] for mark in ("bos_token", "eos_token", "pad_token")}
        if style == "decoder":
            config["added_tokens_decoder"] = {
                str(vocab[mark]): {
                    **{"content": mark, "special": True, **FLAGS},
                    "normalized": mark == "<|startoftext|>",
                }
                for mark in marks
            }
        else:
            for mark in ("bos_token", "eos_token", "unk_token"):
                token = {"__type": "AddedToken", "content": config[mark], **FLAGS}
                config[mark] = {**token, "normalized": True}
        path.write_text(json.dumps(config))
    t5 = transformers.T5TokenizerFast.from_pretrained(
        tmp_path / "flux" / "tokenizer_2", extra_ids=100
    )
    t5.save_pretrained(tmp_path / "flux" / "tokenizer_2")
    for family in ("sdxl", "flux"):
        test_ids_and_masks_are_those_of_transformers(tmp_path / family, family)
