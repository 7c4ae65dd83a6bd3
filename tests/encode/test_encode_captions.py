"""Each distinct caption is encoded once, and the empty one always."""

import shutil
from pathlib import Path

import torch

from modelzoo.text_encoders import load_text_encoder, load_tokenizer
from stages import encode_captions
from stages.artifacts import extra_metadata, read_json, read_table
from stages.encode_captions import Artifacts, Params
from stages.rows.manifest import open_prompts
from stages.rows.table import RowTable

PARAMS = Params("flux2", "float32", 4, 1, None)
PROMPTS = Path("data/prompts.parquet")


class Recorder:
    """The workspace's text encoder, counting what it is asked to encode."""

    def __init__(self):
        self.inner = load_text_encoder(
            Path("base/text_encoder"), load_tokenizer(Path("base/tokenizer")), torch.float32
        )
        self.CONVENTION, self.layers, self.batches = self.inner.CONVENTION, self.inner.layers, []

    def encode_rows(self, ids, mask):
        self.batches.append(ids)
        return self.inner.encode_rows(ids, mask)

    @property
    def num_captions(self):
        """Different captions encoded, without the probe, which comes first."""
        return len({tuple(row.tolist()) for batch in self.batches[1:] for row in batch})


def encode(recorder, fill_only=False):
    torch.set_num_threads(1)
    digest = read_json(Path("data/base/text_encoder.json"))["digest"]
    tokenizer = load_tokenizer(Path("base/tokenizer"))
    return encode_captions.encode(recorder, digest, tokenizer, PARAMS, Artifacts(), fill_only)


def all_rows():
    table = read_table(PROMPTS, "prompts")
    keys = table["key"].to_pylist()
    context = RowTable.open("store", table["table"][0].as_py()).take(keys)["context"]
    captions = table["caption"].to_pylist()
    return {caption: row.tobytes() for caption, row in zip(captions, context, strict=True)}


def test_captions_are_encoded_once_and_the_empty_one_too(workspace, capsys):
    encode_captions.run(PARAMS)
    assert capsys.readouterr().out.splitlines()[-1] == "encoded 11 rows, reused 0"
    first = PROMPTS.read_bytes()
    encode_captions.run(PARAMS)
    assert capsys.readouterr().out.splitlines()[-1] == "encoded 0 rows, reused 11"
    assert PROMPTS.read_bytes() == first
    table = read_table(PROMPTS, "prompts")
    captions = table["caption"].to_pylist()
    assert captions == sorted({*workspace.captions.values(), ""})
    assert extra_metadata(table)["family"] == "flux2"


def test_one_changed_caption_costs_one_row(workspace):
    encode(Recorder())
    sample = workspace.pictures[3]["sample_id"]
    workspace.captions[sample] = "a picture of something else"
    workspace.write()
    recorder = Recorder()
    assert str(encode(recorder)) == "encoded 1 rows, reused 10"
    assert recorder.num_captions == 1


def test_a_caption_that_two_samples_share_is_one_row(workspace):
    first, second = list(workspace.captions)[:2]
    workspace.captions[second] = workspace.captions[first]
    workspace.write()
    recorder = Recorder()
    assert encode(recorder).encoded == recorder.num_captions == 10


def test_rows_are_the_text_encoders_own(workspace):
    encode(Recorder())
    tokenizer = load_tokenizer(Path("base/tokenizer"))
    caption = workspace.captions[workspace.pictures[0]["sample_id"]]
    tokens = tokenizer.ids(caption)
    ids, mask = torch.tensor([tokens.ids]), torch.tensor([tokens.mask])
    expected = Recorder().inner.encode_rows(ids, mask)["context"]
    found = open_prompts(PROMPTS, None).take([caption])["context"]
    torch.testing.assert_close(torch.from_numpy(found), expected)


def test_a_rows_bits_depend_neither_on_its_neighbours_nor_on_the_order(workspace):
    encode(Recorder())
    at_once, manifest = all_rows(), PROMPTS.read_bytes()
    shutil.rmtree("store")
    everything = list(reversed(workspace.captions.items()))
    for some in (1, 4, 6, 10):
        workspace.captions = dict(everything[:some])
        workspace.write()
        encode(Recorder())
    assert all_rows() == at_once
    assert PROMPTS.read_bytes() == manifest


def test_opening_a_manifest_without_rows_encodes_them_in_a_child(workspace, capfd):
    encode(Recorder())
    manifest, rows = PROMPTS.read_bytes(), all_rows()
    shutil.rmtree("store")
    assert open_prompts(PROMPTS, None).take(["", ""])["context"].shape[0] == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "encoded 11 rows, reused 0"
    assert all_rows() == rows
    assert PROMPTS.read_bytes() == manifest
