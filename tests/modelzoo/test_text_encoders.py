"""Tokenizers and text encoders made here: deterministic, of fixed length, and telling apart."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from modelzoo.checkpoints.digest import component_digest
from modelzoo.text_encoders import (
    TEXT_PARTS,
    load_text_encoders,
    load_tokenizers,
    make_text_parts,
    text_lengths,
)
from modelzoo.text_encoders.tokenizer_training import TRAINERS, train_tokenizer

CAPTIONS = [f"handwritten digits {a} {b}" for a in ("one", "two") for b in ("three", "four")]
DECODER = {
    "hidden_size": 24,
    "num_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "intermediate_size": 32,
    "output_layers": [1, 2],
}
CLIP = {
    "hidden_size": 24,
    "num_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "projection_dim": 24,
    "max_length": 12,
}
T5 = {
    "hidden_size": 48,
    "num_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 12,
    "intermediate_size": 64,
    "max_length": 16,
}
ENCODERS = {
    "sdxl": {"clip_l": CLIP, "clip_g": CLIP},
    "flux": {"clip_l": CLIP, "t5": T5},
    "klein": {"qwen3": {**DECODER, "max_length": 24}},
    "dev": {"mistral3": {**DECODER, "max_length": 72}},
    "sd3": {"clip_l": CLIP, "clip_g": CLIP, "t5": T5},
}
LENGTHS = {"clip_l": 12, "clip_g": 12, "t5": 16, "qwen3": 24, "mistral3": 72}


def section(name: str, **changes) -> dict:
    """The section `model` of params.yaml."""
    family = name if name in TEXT_PARTS else "flux2"
    encoders = {**ENCODERS[name], **changes}
    return {"type": family, "text_encoder": encoders, "from_scratch": {"vocab_size": 600}}


def folders(root, family: str) -> dict:
    names = [name for part in TEXT_PARTS[family] for name in (part.tokenizer, part.encoder)]
    return {name: root / name for name in names}


def encode(root, family: str, prompts: list[str]):
    tokenizer = load_tokenizers(family, folders(root, family))
    encoder = load_text_encoders(family, folders(root, family), tokenizer, torch.float32)
    ids, mask = (torch.tensor(flat) for flat in zip(*map(tokenizer.tokens, prompts), strict=True))
    return encoder.encode_rows(ids, mask)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A base of every kind."""
    roots = {}
    for name in ENCODERS:
        roots[name] = tmp_path_factory.mktemp(name)
        make_text_parts(section(name), CAPTIONS, 0, roots[name])
    return roots


@pytest.fixture(params=list(ENCODERS))
def base(request, bases):
    """The folder and the family of one base."""
    family = request.param if request.param in TEXT_PARTS else "flux2"
    return bases[request.param], family


@pytest.fixture
def copied(bases, tmp_path):
    """Copy a base, to be damaged."""

    def copy(name: str):
        shutil.copytree(bases[name], tmp_path / name)
        return tmp_path / name

    return copy


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_tokenization_imports_no_torch():
    code = "import sys, modelzoo.text_encoders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_same_captions_give_the_same_bytes_in_any_order_and_process(tmp_path):
    """Another process: another hash seed, another number of threads."""
    code = (
        "import sys, pathlib; from modelzoo.text_encoders.tokenizer_training import *\n"
        "for kind in TRAINERS:\n"
        "    train_tokenizer(kind, sys.argv[2:], 600, 72, pathlib.Path(sys.argv[1]) / kind)"
    )
    theirs = tmp_path / "theirs"
    subprocess.run([sys.executable, "-c", code, str(theirs), *reversed(CAPTIONS)], check=True)
    for kind in TRAINERS:
        train_tokenizer(kind, CAPTIONS, 600, 72, tmp_path / "ours" / kind)
        files = sorted((tmp_path / "ours" / kind).iterdir())
        assert files
        for file in files:
            assert file.read_bytes() == (theirs / kind / file.name).read_bytes(), file


def test_ids_have_the_fixed_length_and_padding_is_masked(base):
    for encoded in load_tokenizers(base[1], folders(*base)).encode(CAPTIONS[0]):
        assert len(encoded.ids) == len(encoded.mask) == LENGTHS[encoded.part]
        assert not encoded.truncated
        assert 0 < encoded.num_tokens <= 6
        used = sum(encoded.mask)
        ends = [1] * used + [0] * (len(encoded.mask) - used)
        pads_left = encoded.part == "mistral3"
        assert encoded.mask == (ends[::-1] if pads_left else ends)
        padding = encoded.ids[:-used] if pads_left else encoded.ids[used:]
        assert len(set(padding)) == 1


def test_tokens_are_those_of_all_parts_one_after_the_other(base):
    tokenizer = load_tokenizers(base[1], folders(*base))
    flat, encoded = tokenizer.tokens(CAPTIONS[0]), tokenizer.encode(CAPTIONS[0])
    assert flat.ids == [i for part in encoded for i in part.ids]
    assert flat.mask == [m for part in encoded for m in part.mask]
    assert [part.part for part in encoded] == list(tokenizer.lengths)
    assert len(flat.ids) == sum(tokenizer.lengths.values())


def test_the_empty_prompt_is_marks_and_template_alone(base):
    tokenizer = load_tokenizers(base[1], folders(*base))
    for empty, one in zip(tokenizer.encode(""), tokenizer.encode("q"), strict=True):
        assert empty.num_tokens == 0
        assert sum(empty.mask) == sum(one.mask) - one.num_tokens
        room = tokenizer.tokenizers[empty.part].max_tokens
        assert sum(empty.mask) + room == len(empty.mask)


def test_a_long_prompt_is_cut_and_says_so(base):
    for encoded in load_tokenizers(base[1], folders(*base)).encode("qzx " * 30):
        assert encoded.truncated
        assert encoded.num_tokens > 24
        assert encoded.mask == [1] * LENGTHS[encoded.part]


def test_marks_stay_where_a_long_prompt_is_cut(bases):
    tokenizer = load_tokenizers("flux", folders(bases["flux"], "flux"))
    for empty, long in zip(tokenizer.encode(""), tokenizer.encode("qzx " * 30), strict=True):
        end = empty.ids[sum(empty.mask) - 1]
        assert long.ids[-1] == end
        assert end not in long.ids[:-1]


def test_a_prompt_that_just_fits_is_not_cut(bases):
    tokenizer = load_tokenizers("flux", folders(bases["flux"], "flux"))
    for words in (10, 11, 15, 16):
        for encoded in tokenizer.encode("one " * words):
            room = tokenizer.tokenizers[encoded.part].max_tokens
            assert (encoded.num_tokens, encoded.truncated) == (words, words > room)


def test_any_text_has_ids(base):
    tokenizer = load_tokenizers(base[1], folders(*base))
    for prompt in ("日本語 🎨", "\x00\t", "naïve"):
        for encoded in tokenizer.encode(prompt):
            assert max(encoded.ids) < tokenizer.tokenizers[encoded.part].vocab_size


def test_clip_spells_every_byte_with_a_token_of_its_own(bases):
    """An unknown letter would become the end mark, and the prompt would end there."""
    tokenizer = load_tokenizers("flux", folders(bases["flux"], "flux")).tokenizers["clip_l"]
    empty = tokenizer.ids("")
    for letter in map(chr, [*range(33, 127), *range(0xC0, 0x250)]):
        encoded = tokenizer.ids(letter)
        assert encoded.ids.index(empty.ids[1]) == 1 + encoded.num_tokens, letter


def test_lengths_are_those_of_the_pipelines_unless_the_tokenizer_takes_less(copied):
    root = copied("sd3")
    assert load_tokenizers("sd3", folders(root, "sd3")).lengths == {
        kind: LENGTHS[kind] for kind in ("clip_l", "clip_g", "t5")
    }
    change(root / "tokenizer_3" / "tokenizer_config.json", model_max_length=512)
    assert load_tokenizers("sd3", folders(root, "sd3")).lengths["t5"] == 256
    longer = load_tokenizers("sd3", folders(root, "sd3"), {"t5": 300})
    assert longer.lengths["t5"] == len(longer.encode("q")[2].ids) == 300
    with pytest.raises(ValueError, match=r"t5.max_length 600 is more than the model_max_length"):
        load_tokenizers("sd3", folders(root, "sd3"), {"t5": 600})
    with pytest.raises(ValueError, match="clip_l 12 and of clip_g 11 must be equal"):
        load_tokenizers("sd3", folders(root, "sd3"), {"clip_g": 11})
    with pytest.raises(ValueError, match="leaves no room for a prompt"):
        load_tokenizers("sd3", folders(root, "sd3"), {"clip_g": 2})


def test_the_section_of_the_parameters_names_the_lengths():
    assert text_lengths(section("flux")) == {"clip_l": 12, "t5": 16}
    assert text_lengths({"type": "flux", "text_encoder": {"t5": {"hidden_size": 8}}}) == {}
    assert text_lengths({"type": "flux", "text_encoder": None}) == {}
    with pytest.raises(ValueError, match=r"\['qwen3'\] are not text encoders of model.type 'flux'"):
        text_lengths({"type": "flux", "text_encoder": {"qwen3": {}}})


def test_a_flux2_tokenizer_is_known_by_what_its_folder_says(bases):
    kinds = [
        list(load_tokenizers("flux2", folders(bases[name], "flux2")).lengths)
        for name in ("klein", "dev")
    ]
    assert kinds == [["qwen3"], ["mistral3"]]


def test_a_tokenizer_of_another_family_is_refused(bases):
    t5 = {"tokenizer": bases["flux"] / "tokenizer_2"}
    with pytest.raises(ValueError, match=r"'T5Tokenizer', but one of \['PixtralProcessor', 'Qwen"):
        load_tokenizers("flux2", t5)
    with pytest.raises(ValueError, match=r"one of \['CLIPTokenizer'\] is needed"):
        load_tokenizers("flux", t5)
    with pytest.raises(ValueError, match="'pixart' has no text encoders here"):
        load_tokenizers("pixart", t5)


def test_what_is_not_there_is_named(bases, copied):
    one = {"tokenizer": bases["sdxl"] / "tokenizer"}
    with pytest.raises(FileNotFoundError, match=r"'sdxl' needs a folder 'tokenizer_2'"):
        load_tokenizers("sdxl", one)
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no tokenizer_config\.json"):
        load_tokenizers("flux2", {"tokenizer": bases["klein"] / "nowhere"})
    root = copied("flux")
    (root / "tokenizer_2" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer_2: there is no tokenizer\.json"):
        load_tokenizers("flux", folders(root, "flux"))
    tokenizer = load_tokenizers("sdxl", folders(bases["sdxl"], "sdxl"))
    with pytest.raises(FileNotFoundError, match="'text_encoder_2'"):
        load_text_encoders(
            "sdxl", {"text_encoder": bases["sdxl"] / "text_encoder"}, tokenizer, torch.float32
        )


def test_a_tokenizer_without_its_marks_is_refused(copied):
    root = copied("dev")
    change(root / "tokenizer" / "tokenizer_config.json", processor_class=None)
    change(root / "tokenizer" / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    with pytest.raises(ValueError, match=r"lacks the tokens \['<\|endoftext\|>', '<\|im_start\|>'"):
        load_tokenizers("flux2", folders(root, "flux2"))
    root = copied("flux")
    change(root / "tokenizer" / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json lacks 'eos_token'"):
        load_tokenizers("flux", folders(root, "flux"))


@pytest.mark.parametrize(
    ("kind", "needed"), [("clip_l", 514), ("qwen3", 261), ("mistral3", 267), ("t5", 98)]
)
def test_a_vocabulary_that_cannot_hold_the_letters_is_refused(kind, needed, tmp_path):
    with pytest.raises(ValueError, match=rf"vocab_size {needed - 1} is too small.* need {needed}:"):
        train_tokenizer(kind, CAPTIONS, needed - 1, 72, tmp_path)
    train_tokenizer(kind, CAPTIONS, needed, 300, tmp_path)


def test_an_untrained_encoder_tells_captions_apart(base):
    """Layers must differ in what they say and agree in scale, or one of them is not heard."""
    rows = encode(*base, [CAPTIONS[0], CAPTIONS[1], ""])
    for row in rows.values():
        assert (row[0] - row[1]).abs().max() > 0.2
        assert (row[0] - row[2]).abs().max() > 1
        assert not row.requires_grad
    scales = [part.std().item() for part in rows["context"].split(24, dim=-1)]
    assert 0.5 < min(scales) <= max(scales) < 2


@pytest.mark.parametrize("name", ["sdxl", "flux", "sd3"])
def test_an_untrained_encoder_sees_the_order_of_words(name, bases):
    """FLUX.1 and SDXL give text no positions: a word's state itself must say where it stands."""
    context = encode(bases[name], name, ["one two", "two one"])["context"]
    nearest = torch.cdist(*context).amin(dim=1)  # of each state, in the other order's
    assert nearest.max() > 0.15 * context.norm(dim=-1).mean()


def test_the_seed_decides_about_the_encoders(bases, tmp_path):
    make_text_parts(section("sdxl"), CAPTIONS, 0, tmp_path / "same")
    make_text_parts(section("sdxl"), CAPTIONS, 7, tmp_path / "other")
    for name in folders(tmp_path, "sdxl"):
        digest = component_digest(bases["sdxl"] / name)
        assert component_digest(tmp_path / "same" / name) == digest
        is_trained = name.startswith("tokenizer")
        assert (component_digest(tmp_path / "other" / name) == digest) == is_trained


def test_text_encoders_of_equal_sizes_are_not_equal(bases):
    small, large = encode(bases["sdxl"], "sdxl", CAPTIONS)["context"].chunk(2, dim=-1)
    assert (small - large).abs().mean() > 0.5


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sdxl", {"clip_l": {**CLIP, "depth": 1}}, r"clip_l: unknown are \['depth'\]"),
        ("sdxl", {"clip_l": {**CLIP, "hidden_size": 25}}, "does not divide into num_attention_h"),
        ("sdxl", {"clip_l": {**CLIP, "max_length": 13}}, "13 and of clip_g 12 must be equal"),
        ("sdxl", {"clip_l": None}, r"must have exactly one of \['clip_l'\]"),
        ("klein", {"mistral3": {}}, r"must have exactly one of \['qwen3', 'mistral3'\]"),
        (
            "sd3",
            {"t5": {**T5, "hidden_size": 47}},
            "less than the 48 channels of clip_l and clip_g",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused(name, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_text_parts(section(name, **changes), CAPTIONS, 0, tmp_path)


def test_sd3_may_be_made_without_t5_but_not_with_half_of_it(tmp_path, bases):
    make_text_parts(section("sd3", t5=None), CAPTIONS, 0, tmp_path)
    without = {path.name: path for path in tmp_path.iterdir()}
    assert sorted(without) == ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"]
    tokenizer = load_tokenizers("sd3", without, {"t5": 16})
    load_text_encoders("sd3", without, tokenizer, torch.float32)
    whole = folders(bases["sd3"], "sd3")
    with pytest.raises(FileNotFoundError, match="'tokenizer_3' and 'text_encoder_3'"):
        load_text_encoders("sd3", whole, tokenizer, torch.float32)
    with pytest.raises(FileNotFoundError, match="'tokenizer_3' and 'text_encoder_3'"):
        load_text_encoders("sd3", without, load_tokenizers("sd3", whole), torch.float32)


@pytest.mark.parametrize("name", ["klein", "dev"])
def test_a_layer_that_is_not_there_is_refused(name, copied):
    root = copied(name)
    change(root / "text_encoder" / "config.json", diffbase={"output_layers": [1, 4]})
    with pytest.raises(ValueError, match=r"output_layers \[1, 4\] must lie between 0"):
        encode(root, "flux2", [""])


def test_a_text_encoder_that_does_not_fit_its_tokenizer_is_refused(copied):
    root = copied("flux")
    config = root / "text_encoder" / "config.json"
    change(config, vocab_size=300)
    with pytest.raises(ValueError, match="embedding has 300 rows"):
        encode(root, "flux", [""])
    change(config, vocab_size=600, max_position_embeddings=8)
    with pytest.raises(ValueError, match="there are 8 positions, but a prompt has 12 tokens"):
        encode(root, "flux", [""])
    change(config, architectures=["T5EncoderModel"])
    with pytest.raises(ValueError, match="names 'T5EncoderModel', but one of"):
        encode(root, "flux", [""])


def test_convention_and_layers_name_every_part(bases):
    tokenizer = load_tokenizers("sd3", folders(bases["sd3"], "sd3"))
    given = ("sd3", folders(bases["sd3"], "sd3"), tokenizer, torch.float32)
    encoder, zeroed = load_text_encoders(*given), load_text_encoders(*given, zero_empty=True)
    assert encoder.layers == zeroed.layers == (2, 2, 2)
    assert len(encoder.CONVENTION.split("+")) == 3
    assert zeroed.CONVENTION != encoder.CONVENTION
