"""Each picture is encoded once, whatever the neighbours, the order and the number of clones."""

import dataclasses
import json
import shutil
from pathlib import Path

import lance
import numpy as np
import pytest
import torch
from PIL import Image

from modelzoo.autoencoders import load_autoencoder
from stages import pixels
from stages.artifacts import extra_metadata, read_json, read_table, write_table
from stages.base_record import read_record
from stages.encode_images import stage as encode_images
from stages.encode_images.stage import Artifacts
from stages.rows.keys import key_of
from stages.rows.manifest import open_latents
from stages.tables import SIZES, latent_name, place, to_table
from tests import toys
from tests.encode.workspaces import (
    LATENTS,
    PICTURES,
    VAE,
    Recorder,
    all_rows,
    encode_pictures,
)


def rows():
    return all_rows(LATENTS, "latents")


def as_the_encoder_sees(picture):
    """A picture cut to its bucket, (1, 3, H, W) in [-1, 1]."""
    image = pixels.open_rgb(Path("pictures", picture["path"]).read_bytes()).image
    values = torch.from_numpy(pixels.crop_to_bucket(image, picture))
    return values.permute(2, 0, 1)[None].float() / 127.5 - 1


def test_pictures_are_encoded_once(workspace, capsys):
    encode_images.run(PICTURES)
    assert capsys.readouterr().out.splitlines()[-1] == "encoded 10 rows, reused 0"
    first = LATENTS.read_bytes()
    encode_images.run(PICTURES)
    assert capsys.readouterr().out.splitlines()[-1] == "encoded 0 rows, reused 10"
    assert LATENTS.read_bytes() == first


def test_calls_of_the_encoder_are_what_the_last_line_says(workspace):
    fresh, warm = Recorder(), Recorder()
    assert encode_pictures(fresh).encoded == fresh.num_pictures == 10
    assert encode_pictures(warm).reused == 10
    assert len(warm.batches) == 1  # the probe
    assert {len(batch) for batch in fresh.batches} == {4}  # always the fixed size


def test_one_new_picture_costs_one_row(workspace):
    encode_pictures(Recorder())
    workspace.add_picture(10)
    workspace.write()
    recorder = Recorder()
    assert str(encode_pictures(recorder)) == "encoded 1 rows, reused 10"
    assert recorder.num_pictures == 1


def test_a_picture_taken_away_costs_nothing(workspace):
    encode_pictures(Recorder())
    workspace.pictures.pop()
    workspace.write()
    assert str(encode_pictures(Recorder())) == "encoded 0 rows, reused 9"


def test_the_manifest_says_what_was_encoded_and_with_what(workspace):
    encode_pictures(Recorder())
    table = read_table(LATENTS, "latents")
    row = table.to_pylist()[0]
    assert table["sample_id"].to_pylist() == sorted(p["sample_id"] for p in workspace.pictures)
    assert {row["table"] for row in table.to_pylist()} == {
        "latents-16x8x16-float32",
        "latents-16x8x8-float32",
    }
    assert (row["channels"], row["height"]) == (16, 8)
    metadata = extra_metadata(table)
    assert metadata["encoder"] == read_json(Path("data/base/vae.json"))["digest"]
    assert metadata["family"] == "flux2"


def test_rows_are_the_autoencoders_own(workspace):
    encode_pictures(Recorder())
    picture = next(row for row in workspace.pictures if row["path"] == "0.png")
    values = as_the_encoder_sees(picture)
    expected = load_autoencoder(VAE).encode_rows(values)["mean"]
    found = open_latents(LATENTS, None).take([latent_name(picture)])["mean"]
    torch.testing.assert_close(torch.from_numpy(found), expected)


def test_the_manifest_says_what_sdxl_is_told_of_a_picture(workspace):
    encode_pictures(Recorder())
    told = {
        row["sample_id"]: tuple(row[name] for name in SIZES)
        for row in read_table(LATENTS, "latents").to_pylist()
    }
    # original height and width, the crop's top and left in the resized 43x32, then the bucket's
    expected = {0: (32, 64, 0, 0, 32, 64), 1: (32, 32, 0, 0, 32, 32), 2: (30, 40, 0, 5, 32, 32)}
    for seed, sizes in expected.items():
        assert told[workspace.pictures[seed]["sample_id"]] == sizes


def test_an_autoencoder_with_a_posterior_keeps_its_variance_too(workspace):
    toys.make_base(Path("other/base"), "sdxl")
    artifacts = Artifacts(vae=Path("other/base/vae.json"))
    encode_images.run(dataclasses.replace(PICTURES, family="sdxl"), artifacts)
    picture = next(row for row in workspace.pictures if row["path"] == "0.png")
    found = open_latents(LATENTS, None).take([latent_name(picture)])
    assert {name: array.shape for name, array in found.items()} == {
        "mean": (1, 4, 16, 32),
        "logvar": (1, 4, 16, 32),
    }
    values = as_the_encoder_sees(picture)
    expected = load_autoencoder(read_record(artifacts.vae).folders["vae"]).encode_rows(values)
    for name, row in expected.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), row)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_rows_bits_depend_neither_on_its_neighbours_nor_on_the_order(
    workspace, monkeypatch, threads
):
    params = dataclasses.replace(PICTURES, threads=threads)
    encode_pictures(Recorder(), params)
    at_once, manifest = rows(), LATENTS.read_bytes()
    shutil.rmtree("store")
    everything = list(np.random.default_rng(threads).permutation(workspace.pictures))
    for some in (1, 3, 4, 9, 10):
        workspace.pictures = everything[:some]
        workspace.write()
        encode_pictures(Recorder(), params)
    assert rows() == at_once
    assert LATENTS.read_bytes() == manifest


def test_what_changes_the_bits_changes_the_keys(workspace):
    encode_pictures(Recorder())
    known = set(rows())
    for change in ({"batch_size": 2}, {"threads": 2}):
        count = encode_pictures(Recorder(), dataclasses.replace(PICTURES, **change))
        assert count.encoded == 10
        assert not known & set(rows())


def test_changed_encoder_code_reuses_no_row_and_going_back_reuses_all(workspace):
    encode_pictures(Recorder())
    manifest = LATENTS.read_bytes()
    assert encode_pictures(Recorder(gain=1.01)).encoded == 10
    assert encode_pictures(Recorder(gain=1.01)).reused == 10
    assert encode_pictures(Recorder(gain=1 + 1e-6)).reused == 10  # rounding
    assert LATENTS.read_bytes() == manifest


def test_an_encoder_whose_rows_depend_on_their_place_is_refused(workspace):
    recorder = Recorder()
    whole = recorder.encode_rows
    recorder.encode_rows = lambda images: {
        "mean": whole(images)["mean"] + torch.arange(4.0)[:, None, None, None]
    }
    with pytest.raises(ValueError, match="make the batch size 1 or a multiple of the threads"):
        encode_pictures(recorder)


def test_a_changed_file_is_one_sentence_and_leaves_no_manifest(workspace):
    shutil.copy("pictures/1.png", "pictures/4.png")
    with pytest.raises(ValueError, match=r"^pictures/4.png is no longer the picture .*dvc repro"):
        encode_pictures(Recorder())
    Path("pictures/4.png").unlink()
    with pytest.raises(ValueError, match=r"^pictures/4.png is no longer"):
        encode_pictures(Recorder())
    assert not LATENTS.exists()


def test_opening_a_manifest_without_rows_encodes_them_in_a_child(workspace, capfd):
    encode_pictures(Recorder())
    manifest, before = LATENTS.read_bytes(), rows()
    shutil.rmtree("store")
    sample = latent_name(workspace.pictures[0])
    assert open_latents(LATENTS, None).take([sample, sample])["mean"].shape[0] == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "encoded 10 rows, reused 0"
    assert rows() == before
    assert LATENTS.read_bytes() == manifest


def test_a_manifest_that_no_longer_fits_is_not_filled(workspace, capfd):
    encode_pictures(Recorder())
    shutil.rmtree("store")
    workspace.write_params(encode_batch_size=2)
    with pytest.raises(ValueError, match="10 of its rows are missing"):
        open_latents(LATENTS, None)
    assert "names 10 rows that its inputs and parameters no longer give" in capfd.readouterr().err


def test_a_manifest_of_an_encoder_that_behaved_otherwise_is_not_filled(workspace):
    encode_pictures(Recorder())
    shutil.rmtree("store")
    with pytest.raises(ValueError, match="of an encoder that gave other values"):
        encode_pictures(Recorder(gain=1.01), fill_only=True)


def test_a_manifest_from_a_machine_that_rounds_otherwise_is_filled(workspace):
    encode_pictures(Recorder(gain=1 + 1e-6))
    shutil.rmtree("store")
    assert encode_pictures(Recorder(), fill_only=True).encoded == 10


def test_all_roles_have_rows_and_a_target_with_a_mask_a_second_one(workspace):
    sample = workspace.pictures[0]["sample_id"]
    for seed, (role, index) in enumerate([("reference", 0), ("reference", 1), ("condition", 0)]):
        workspace.add_picture(20 + seed, sample_id=sample, role=role, index=index)
    workspace.add_picture(30, sample_id=sample, role="mask")
    workspace.write()
    assert encode_pictures().encoded == 15
    table = read_table(LATENTS, "latents").to_pylist()
    assert table == sorted(table, key=place)
    found = [(row["role"], row["index"]) for row in table if row["sample_id"] == sample]
    others = [("mask", 0), ("condition", 0), ("masked", 0)]
    assert found == [("target", 0), ("reference", 0), ("reference", 1), *others]
    reference = next(picture for picture in workspace.pictures if picture["index"] == 1)
    expected = load_autoencoder(VAE).encode_rows(as_the_encoder_sees(reference))["mean"]
    row = open_latents(LATENTS, None).take([latent_name(reference)])["mean"]
    torch.testing.assert_close(torch.from_numpy(row), expected)


def test_conditions_that_were_made_are_encoded_from_their_own_folder(workspace):
    target = workspace.pictures[0]
    image = pixels.open_rgb(Path("pictures", target["path"]).read_bytes()).image
    cut = Image.fromarray(255 - pixels.crop_to_bucket(image, target))
    Path("data/conditions").mkdir()
    cut.save("data/conditions/made.png")
    size = {"resize_width": cut.width, "resize_height": cut.height, "crop_left": 0}
    original = {"original_width": cut.width, "original_height": cut.height}
    row = {**target, "role": "condition", "path": "made.png", **size, **original}
    row["content"] = pixels.content_hash(cut)
    write_table(Path("data/conditions.parquet"), to_table([row], "buckets"), "buckets")
    encode_pictures()
    (made,) = [row for row in read_table(LATENTS, "latents").to_pylist() if row["role"] != "target"]
    assert place(made) == place(row)
    wanted = torch.from_numpy(np.array(cut)).permute(2, 0, 1)[None].float() / 127.5 - 1
    mean = load_autoencoder(VAE).encode_rows(wanted)["mean"][0].numpy()
    found = open_latents(LATENTS, "store").take([latent_name(made)])["mean"][0]
    np.testing.assert_allclose(found, mean, atol=1e-5)


def test_a_picture_that_two_samples_show_is_one_row(workspace):
    shared = workspace.pictures[1]
    other = workspace.pictures[0]["sample_id"]
    workspace.pictures.append(shared | {"sample_id": other, "role": "reference"})
    workspace.write()
    recorder = Recorder()
    assert encode_pictures(recorder).encoded == recorder.num_pictures == 10
    assert read_table(LATENTS, "latents").num_rows == 11


def test_a_mirrored_variant_is_a_row_of_its_own(workspace):
    picture = workspace.pictures[0]
    mirrored = picture | {"variant": 1, "flipped": True, "repeats": 3, "weight": 0.5}
    workspace.pictures.append(mirrored)
    workspace.write()
    assert encode_pictures().encoded == 11
    seen = as_the_encoder_sees(picture)
    expected = load_autoencoder(VAE).encode_rows(seen.flip(-1).contiguous())["mean"]
    row = open_latents(LATENTS, None).take([latent_name(mirrored)])["mean"]
    torch.testing.assert_close(torch.from_numpy(row), expected)
    carried = read_table(LATENTS, "latents").to_pylist()
    assert [row["weight"] for row in carried if row["repeats"] == 3] == [0.5]


def test_a_row_says_what_its_key_is_the_hash_of(workspace):
    encode_pictures()
    row = next(
        row
        for row in read_table(LATENTS, "latents").to_pylist()
        if row["sample_id"] == workspace.pictures[2]["sample_id"]
    )
    table = lance.dataset(f"store/rows/{row['table']}.lance")
    text = table.to_table(filter=f"key = '{row['key']}'")["parts"][0].as_py()
    assert key_of(text) == row["key"]
    parts = json.loads(text)
    assert parts["content"] == workspace.pictures[2]["content"]
    assert parts["geometry"] == [43, 32, 5, 0, 32, 32, False]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rows_keep_the_encoders_precision(workspace, dtype):
    params = dataclasses.replace(PICTURES, dtype=dtype)
    encode_images.run(params)
    picture = workspace.pictures[0]
    kind = getattr(torch, dtype)
    expected = load_autoencoder(VAE, kind).encode_rows(as_the_encoder_sees(picture).to(kind))
    row = open_latents(LATENTS, None).take([latent_name(picture)])["mean"]
    assert read_table(LATENTS, "latents")["table"][0].as_py().endswith(f"-{dtype}")
    torch.testing.assert_close(torch.from_numpy(row).to(kind), expected["mean"], atol=0.1, rtol=0.1)
