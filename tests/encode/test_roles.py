"""Masks, conditions, references and what masks leave are rows cut and mirrored as their target."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from modelzoo.autoencoders import load_autoencoder
from modelzoo.flux.components.conditions import fill_condition
from modelzoo.flux.v2.conditioning import prepare_fill_conditioning
from modelzoo.flux.v2.model import cells
from stages import pixels
from stages.artifacts import read_table, write_table
from stages.base_record import Part, write_record
from stages.bucketed_pictures import to_encode
from stages.encode_images import stage as encode_images
from stages.rows.manifest import open_latents
from stages.store.clean import find_unused
from stages.store.expected import Params, expected_pictures
from stages.store.report import forecast
from stages.store.stored import StoredRows
from stages.store.tables import named_keys
from stages.tables import latent_name, to_table
from stages.train import live_latents
from stages.train.companions import companions_of
from stages.train.sources import Stored
from stages.visit_geometry import Drawn
from tests.data.bucketing import DIGITS, bucket, image_row
from tests.encode.workspaces import LATENTS, PICTURES, VAE, all_rows, encode_pictures

SHAPES = [(150, 100), (90, 140), (128, 128), (333, 120)]  # of targets
VARIED = dataclasses.replace(
    DIGITS, resolutions=(96,), max_side=192, crop="random", crop_variants=2, flip=True
)


class Unshuffled:
    """An autoencoder whose latents are the pixels of a cell: what was encoded can be looked at."""

    CONVENTION, spatial_factor, latent_channels = "toy", 2, 12

    def parameters(self):
        yield torch.zeros(1)

    def to(self, device):
        return self

    def encode_rows(self, images):
        return {"mean": functional.pixel_unshuffle(images, 2)}


def seen(latents):
    """The pixels (B, 3, H, W) from 0 to 255 that were encoded."""
    return (functional.pixel_shuffle(latents, 2) + 1) * 127.5


def draw(path: Path, size, number: int, is_mask: bool = False) -> str:
    """Draw red from left to right, green down, blue the number; a mask is white where it is red."""
    width, height = size
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    values = np.stack([across, down, np.full_like(across, 20 * number)], axis=2)
    if is_mask:
        values = np.where(values[..., :1] >= 127.5, 255.0, 0).repeat(3, 2)
    image = Image.fromarray(np.round(values).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return pixels.content_hash(image)


def dataset(folder: Path):
    """Rows of IMAGES: of each shape a target with all that may belong to it."""
    rows = []
    for number, (width, height) in enumerate(SHAPES):
        for role, index, size in (
            ("target", 0, (width, height)),
            ("reference", 0, (width, height)),
            ("reference", 1, (100 + 40 * (number % 2), 140)),
            ("mask", 0, (width, height)),
            ("condition", 0, (2 * width, 2 * height)),
        ):
            row = image_row(*size, name=f"s{number}", role=role, index=index)
            content = draw(folder / row["path"], size, number, is_mask=role == "mask")
            rows.append(row | {"content": content})
    return rows


@pytest.fixture(params=["flux2", "sdxl"])
def encoded(tmp_path, monkeypatch, request):
    """Manifest, opened rows and companions of targets cut at random, at two resolutions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFBASE_STORE", str(tmp_path / "store"))
    artifacts = bucket(tmp_path, dataset(tmp_path / "pictures"), VARIED).artifacts
    params = dataclasses.replace(PICTURES, family=request.param)
    Path("data").mkdir()
    write_table(encode_images.Artifacts().conditions, to_table([], "buckets"), "buckets")
    files = encode_images.Artifacts(artifacts.buckets, Path("vae.json"), tmp_path / LATENTS.name)
    encode_images.encode(Unshuffled(), "digest", params, files, fill_only=False)
    manifest = read_table(files.latents, "latents")
    targets = manifest.filter([role == "target" for role in manifest["role"].to_pylist()])
    roles = ("reference", "mask", "condition")
    companions = companions_of(files.latents, manifest, targets, roles)
    return targets.to_pylist(), Stored(open_latents(files.latents, None)), companions


@pytest.fixture(params=["flux2", "sdxl"])
def live(tmp_path, monkeypatch, request):
    """Targets, companions and what makes their rows, where each visit cuts and mirrors anew."""
    monkeypatch.chdir(tmp_path)
    once = dataclasses.replace(VARIED, crop_variants=1, is_cached=False)
    artifacts = bucket(tmp_path, dataset(tmp_path / "pictures"), once).artifacts
    params = dataclasses.replace(PICTURES, family=request.param)
    Path("data").mkdir()
    files = encode_images.Artifacts(artifacts.buckets, Path("vae.json"), tmp_path / LATENTS.name)
    write_table(files.conditions, to_table([], "buckets"), "buckets")
    drawn = Drawn(crop=True, flip=True)
    encode_images.leave_to_training(drawn, Unshuffled(), "digest", params, files)
    manifest = read_table(files.latents, "latents")
    targets = manifest.filter([role == "target" for role in manifest["role"].to_pylist()])
    companions = companions_of(files.latents, manifest, targets, ("reference", "mask", "condition"))
    write_record(files.vae, {"vae": Part("Unshuffled", tmp_path, "digest")}, {})
    monkeypatch.setattr(live_latents, "load_autoencoder", lambda *_: Unshuffled())
    opening = live_latents.Opening(
        encode_images.pictures_of(params), request.param, torch.float32, 0, 1, 0
    )
    given = to_encode(files.buckets, files.conditions, files.condition_pictures)
    rows = live_latents.LiveRows(given, drawn, opening, files.vae, 4)
    return targets.to_pylist(), rows, companions


def test_what_belongs_to_a_target_shows_the_same_part_mirrored_alike(encoded):
    targets = encoded[0]
    assert len(targets) == len(SHAPES) * 2 * 4  # resolutions, two crops and their mirror images
    looks = [(place, None) for place in range(len(targets))]
    assert shown_alike(*encoded, looks) == {False, True}


def test_what_belongs_to_a_target_shows_the_same_part_at_each_visit(live):
    assert len(live[0]) == len(SHAPES) * 2  # resolutions
    looks = [(place, [visit]) for place in range(len(live[0])) for visit in range(5)]
    assert shown_alike(*live, looks) == {False, True}


def shown_alike(targets, latent_rows, companions, looks):
    """Hold what each look shows of a target's pictures together; say which are mirrored."""
    mirrored = set()
    for place, visits in looks:
        row = targets[place]
        found = latent_rows.take([latent_name(row)], visits)
        (target,) = seen(torch.from_numpy(found["mean"]))
        got = companions.take(latent_rows, [place], visits)
        assert torch.equal(seen(got["references"][0])[0], target)
        condition = got["condition"][0]
        if condition.shape[0] == 3:
            assert 0 <= condition.min() < condition.max() <= 1
            condition = 255 * condition
        else:
            condition = seen(condition[None])[0]
        assert (condition - target).abs().max() <= 6  # half a pixel of the gradient
        red = target[:1]
        is_clear = (red - 127.5).abs() > 6
        mask = got["mask"][0]
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(mask[is_clear] == 1, red[is_clear] > 127.5)
        left = seen(got["masked"])[0]
        assert torch.equal(left, torch.where(mask == 1, torch.tensor(127.5), target))
        other = seen(got["references"][1])[0]
        falls = [(picture[0, 0, -1] < picture[0, 0, 0]).item() for picture in (target, other)]
        assert falls[0] == falls[1]
        for picture in (other, target, condition):
            assert round(picture[2].mean().item(), 3) == 20 * int(row["sample_id"][1])
        mirrored.add(falls[0])
    return mirrored


def test_references_of_other_shapes_are_not_in_one_batch(encoded):
    targets, latent_rows, companions = encoded
    by_shape = {}
    for place, row in enumerate(targets):
        by_shape.setdefault(row["bucket"] + companions.shapes[place], []).append(place)
    for rows in by_shape.values():
        taken = companions.take(latent_rows, rows)
        alone = companions.take(latent_rows, rows[-1:])
        assert {len(each) for each in taken["references"]} == {len(rows)}
        assert torch.equal(taken["references"][1][-1], alone["references"][1][0])
    assert all(shape.count("+") == 2 for shape in by_shape)


def test_what_a_mask_leaves_is_what_fill_looks_at(workspace):
    workspace.add_masks(3)
    workspace.write()
    encode_pictures()
    picture = workspace.pictures[0]
    rows, vae = open_latents(LATENTS, None), load_autoencoder(VAE)
    name = latent_name(picture)
    mask = torch.from_numpy(rows.take([name.replace("target", "mask")])["mask"])
    masked = torch.from_numpy(rows.take([name.replace("target", "masked")])["mean"])
    image = pixels.open_rgb(Path("pictures", picture["path"]).read_bytes()).image
    values = torch.from_numpy(pixels.crop_to_bucket(image, picture)).permute(2, 0, 1)[None]
    wanted = prepare_fill_conditioning(
        values / 127.5 - 1, mask, vae, torch.device("cpu"), torch.float32
    )
    torch.testing.assert_close(cells(fill_condition(masked, mask)), wanted)
    assert 0.2 < mask.mean() < 0.8


def test_rows_of_masks_are_the_same_at_once_in_steps_and_filled(workspace):
    workspace.add_masks(3)
    workspace.write()
    assert encode_pictures().encoded == 10 + 3 + 3
    expected, manifest = all_rows(LATENTS, "latents"), LATENTS.read_bytes()
    shutil.rmtree("store")
    everything = workspace.pictures
    for number in (1, 7, 11, 13):
        workspace.pictures = sorted(everything, key=lambda row: row["content"])[:number]
        workspace.write()
        encode_pictures(params=dataclasses.replace(PICTURES, decode_workers=number % 2))
    assert all_rows(LATENTS, "latents") == expected
    assert LATENTS.read_bytes() == manifest
    shutil.rmtree("store")
    assert encode_pictures(fill_only=True).encoded == 16
    assert all_rows(LATENTS, "latents") == expected


def test_another_mask_costs_its_row_and_what_it_leaves(workspace):
    workspace.add_masks(3)
    workspace.write()
    encode_pictures()
    target = workspace.pictures[0]
    workspace.pictures = [
        row
        for row in workspace.pictures
        if row["role"] != "mask" or row["sample_id"] != target["sample_id"]
    ]
    changed = {name: target[name] for name in encode_images.CARRIED} | {"role": "mask"}
    workspace.add_picture(60, **changed)
    workspace.write()
    assert str(encode_pictures()) == "encoded 2 rows, reused 14"


def test_the_store_knows_rows_of_masks_before_and_after_they_are_encoded(workspace):
    workspace.add_masks(3)
    workspace.write()
    store = Params("flux2", "float32", 4, 1, "pictures", None)
    root = str(Path("store").absolute())
    wanted = expected_pictures(store)
    assert {row.kind for row in wanted} == {"latents", "masks"}
    assert list(forecast(root, wanted).columns[1].cells) == ["13", "3"]
    encode_pictures()
    for row in expected_pictures(store):
        assert StoredRows(root, row.kind).nearest(row)[1] == {}
    assert list(forecast(root, expected_pictures(store)).columns[1].cells) == ["0", "0"]
    assert not list(find_unused(root, named_keys(), timedelta(0)))


def test_a_mask_depends_on_no_encoder(workspace):
    workspace.add_masks(3)
    workspace.write()
    encode_pictures()
    record = Path("data/base/vae.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "digest": "0" * 64}))
    assert str(encode_pictures()) == "encoded 13 rows, reused 3"
