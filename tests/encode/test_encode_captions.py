"""Each distinct caption is encoded once, and the empty one always."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modelzoo.text_encoders import load_text_encoders
from stages import encode_captions
from stages.artifacts import extra_metadata, read_table
from stages.base_record import read_record, write_record
from stages.encode_captions import Artifacts
from stages.rows.manifest import open_prompts
from tests import toys
from tests.encode.workspaces import (
    CAPTIONS,
    PROMPTS,
    CaptionRecorder,
    all_rows,
    encode_texts,
    tokenizers,
)


def rows():
    """The bytes of each caption's row."""
    table, bits = read_table(PROMPTS, "prompts"), all_rows(PROMPTS, "prompts")
    return {row["caption"]: bits[row["key"]] for row in table.to_pylist()}


def test_captions_are_encoded_once_and_the_empty_one_too(workspace, capsys):
    encode_captions.run(CAPTIONS)
    assert capsys.readouterr().out.splitlines()[-1] == "encoded 11 rows, reused 0"
    first = PROMPTS.read_bytes()
    encode_captions.run(CAPTIONS)
    assert capsys.readouterr().out.splitlines()[-1] == "encoded 0 rows, reused 11"
    assert PROMPTS.read_bytes() == first
    table = read_table(PROMPTS, "prompts")
    captions = table["caption"].to_pylist()
    assert captions == sorted({*workspace.captions.values(), ""})
    assert extra_metadata(table)["family"] == "flux2"


def test_one_changed_caption_costs_one_row(workspace):
    encode_texts(CaptionRecorder())
    sample = workspace.pictures[3]["sample_id"]
    workspace.captions[sample] = "a picture of something else"
    workspace.write()
    recorder = CaptionRecorder()
    assert str(encode_texts(recorder)) == "encoded 1 rows, reused 10"
    assert recorder.num_captions == 1


def test_a_caption_that_two_samples_share_is_one_row(workspace):
    first, second = list(workspace.captions)[:2]
    workspace.captions[second] = workspace.captions[first]
    workspace.write()
    recorder = CaptionRecorder()
    assert encode_texts(recorder).encoded == recorder.num_captions == 10


def test_rows_are_the_text_encoders_own(workspace):
    encode_texts(CaptionRecorder())
    caption = workspace.captions[workspace.pictures[0]["sample_id"]]
    tokens = tokenizers().tokens(caption)
    ids, mask = torch.tensor([tokens.ids]), torch.tensor([tokens.mask])
    expected = CaptionRecorder().inner.encode_rows(ids, mask)["context"]
    found = open_prompts(PROMPTS, None).take([caption])["context"]
    torch.testing.assert_close(torch.from_numpy(found), expected)


def test_a_rows_bits_depend_neither_on_its_neighbours_nor_on_the_order(workspace):
    encode_texts(CaptionRecorder())
    at_once, manifest = rows(), PROMPTS.read_bytes()
    shutil.rmtree("store")
    everything = list(reversed(workspace.captions.items()))
    for some in (1, 4, 6, 10):
        workspace.captions = dict(everything[:some])
        workspace.write()
        encode_texts(CaptionRecorder())
    assert rows() == at_once
    assert PROMPTS.read_bytes() == manifest


def test_opening_a_manifest_without_rows_encodes_them_in_a_child(workspace, capfd):
    encode_texts(CaptionRecorder())
    manifest, before = PROMPTS.read_bytes(), rows()
    shutil.rmtree("store")
    assert open_prompts(PROMPTS, None).take(["", ""])["context"].shape[0] == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "encoded 11 rows, reused 0"
    assert rows() == before
    assert PROMPTS.read_bytes() == manifest


@pytest.mark.parametrize(
    ("family", "context", "pooled"),
    [
        ("sdxl", (12, 16 + 16), (16,)),  # CLIP-L and CLIP-G side by side, CLIP-G's pooled
        ("flux", (10, 32), (16,)),  # T5's, CLIP-L's pooled
        ("sd3", (12 + 10, 32), (16 + 16,)),  # CLIP's tokens, widened, before T5's
    ],
)
def test_a_row_holds_what_all_text_encoders_of_a_family_say(workspace, family, context, pooled):
    base = Path("other/base")
    toys.make_base(base, family)
    artifacts = Artifacts(
        tokenizer=base / "tokenizer.json", text_encoder=base / "text_encoder.json"
    )
    encode_captions.run(replace(CAPTIONS, family=family), artifacts)
    captions = ["", *workspace.captions.values()]
    found = open_prompts(PROMPTS, None).take(captions)
    assert {name: array.shape[1:] for name, array in found.items()} == {
        "context": context,
        "pooled": pooled,
    }
    record, prompts = read_record(artifacts.text_encoder), tokenizers(family, base)
    encoder = load_text_encoders(family, record.folders, prompts, torch.float32)
    tokens = [prompts.tokens(caption) for caption in captions[1:]]
    ids, mask = (torch.tensor(flat) for flat in zip(*tokens, strict=True))
    for name, values in encoder.encode_rows(ids, mask).items():
        torch.testing.assert_close(torch.from_numpy(found[name][1:]), values)
        assert found[name][0].any() == (family != "sdxl")  # no prompt is zeros there
    assert extra_metadata(read_table(PROMPTS, "prompts"))["encoder"] == record.digest


def test_a_base_that_does_not_zero_the_empty_prompt_has_other_rows(workspace):
    base = Path("other/base")
    toys.make_base(base, "sdxl")
    artifacts = Artifacts(
        tokenizer=base / "tokenizer.json", text_encoder=base / "text_encoder.json"
    )
    params = replace(CAPTIONS, family="sdxl")
    encode_captions.run(params, artifacts)
    zeroed = set(read_table(PROMPTS, "prompts")["key"].to_pylist())
    record = read_record(artifacts.text_encoder)
    write_record(artifacts.text_encoder, record.parts, {"zero_empty": False})
    encode_captions.run(params, artifacts)
    assert open_prompts(PROMPTS, None).take([""])["pooled"].any()
    assert not zeroed & set(read_table(PROMPTS, "prompts")["key"].to_pylist())


def test_each_variant_of_a_caption_is_a_row(workspace):
    first, second = list(workspace.captions)[:2]
    workspace.captions[first] = ["a cat", "a sleeping cat", "a cat"]
    workspace.captions[second] = ["a sleeping cat", "a dog"]
    workspace.write()
    recorder = CaptionRecorder()
    assert encode_texts(recorder).encoded == recorder.num_captions == 8 + 3 + 1
    assert {"a cat", "a sleeping cat", "a dog", ""} <= set(rows())
