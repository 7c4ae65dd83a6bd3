"""A row's bits depend on its own key alone: not on history, order, neighbours or helpers."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from stages.tables import place
from tests.encode.workspaces import (
    CAPTIONS,
    LATENTS,
    PICTURES,
    PROMPTS,
    Recorder,
    all_rows,
    encode_pictures,
    encode_texts,
)


def encode_both(params, workspace):
    workspace.write()
    encode_pictures(params=params)
    encode_texts(params=dataclasses.replace(CAPTIONS, threads=params.threads))


def both():
    """All rows and manifests of the two stages."""
    rows = all_rows(LATENTS, "latents"), all_rows(PROMPTS, "prompts")
    return rows, (LATENTS.read_bytes(), PROMPTS.read_bytes())


@pytest.mark.parametrize("threads", [1, 2])
def test_a_store_filled_at_once_and_one_filled_in_random_steps_hold_the_same_bits(
    workspace, threads
):
    params = dataclasses.replace(PICTURES, threads=threads)
    for seed in range(10, 26):
        workspace.add_picture(seed, flipped=bool(seed % 2))
    encode_both(params, workspace)
    at_once = both()
    shutil.rmtree("store")
    rng = np.random.default_rng(threads)
    pictures, captions = workspace.pictures, workspace.captions
    for step, share in enumerate([0.1, 0.2, 0.5, 0.7, 1.0]):  # samples come and go
        chosen = rng.random(len(pictures)) <= share
        workspace.pictures = [
            picture for picture, is_in in zip(pictures, chosen, strict=True) if is_in
        ] or pictures[:1]
        names = [picture["sample_id"] for picture in workspace.pictures]
        workspace.captions = {name: captions[name] for name in rng.permutation(names)}
        encode_both(dataclasses.replace(params, decode_workers=step % 3), workspace)
    assert both() == at_once


def test_the_number_of_processes_that_open_pictures_is_in_no_key(workspace):
    encode_pictures(params=dataclasses.replace(PICTURES, decode_workers=2))
    expected, manifest = all_rows(LATENTS, "latents"), LATENTS.read_bytes()
    for decode_workers in (0, 1):
        shutil.rmtree("store")
        encode_pictures(params=dataclasses.replace(PICTURES, decode_workers=decode_workers))
        assert all_rows(LATENTS, "latents") == expected
        assert LATENTS.read_bytes() == manifest


def test_an_error_midway_keeps_what_was_encoded_and_the_rest_is_the_same(workspace):
    encode_pictures()
    expected = all_rows(LATENTS, "latents")
    shutil.rmtree("store")
    square = [picture for picture in workspace.pictures if picture["bucket"] == "32x32"]
    last = Path("pictures", max(square, key=place)["path"])  # of the last batch
    data = last.read_bytes()
    last.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no longer the picture .* \(the file is empty\)"):
        encode_pictures()
    last.write_bytes(data)
    recorder = Recorder()
    assert encode_pictures(recorder).reused > 0
    assert all_rows(LATENTS, "latents") == expected
