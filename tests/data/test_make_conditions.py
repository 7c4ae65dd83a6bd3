"""The pictures that a ControlNet follows: what they show, when they are made, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from stages import pixels
from stages.artifacts import read_table, write_table
from stages.conditions.making import maker_of
from stages.make_conditions.stage import Params, run
from stages.params.methods import Controlnet
from stages.tables import place, to_table

CANNY = Controlnet(conditioning_type="canny")
PARAMS = Params("pictures", "white", 10**6, "controlnet", CANNY, 1)


def picture(width=48, height=32, seed=0):
    """Draw a black disc on a pale ground that differs from seed to seed."""
    image = Image.new("RGB", (width, height), (200 + seed, 210, 220))
    ImageDraw.Draw(image).ellipse((8, 8, 23, 23), fill=(10, 20, 30))
    return image


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Add a target of 48x32 pixels in a bucket of 32x32, with changes to its row."""
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    rows = []

    def add_target(seed=0, **changes):
        image = picture(seed=seed)
        image.save(f"pictures/{seed}.png")
        content = pixels.content_hash(image)
        row = {"sample_id": content[:20], "role": "target", "index": 0, "resolution": 32}
        row |= {"variant": 0, "content": content, "path": f"{seed}.png", "split": "train"}
        row |= {"repeats": 1, "weight": 1.0, "prior": False, "bucket": "32x32", "flipped": False}
        row |= {"resize_width": 48, "resize_height": 32, "crop_left": 2, "crop_top": 0}
        row |= {"width": 32, "height": 32, "original_width": 48, "original_height": 32}
        rows.append(row | changes)
        table = to_table(sorted(rows, key=place), "buckets")
        write_table(Path("data/buckets.parquet"), table, "buckets")
        return row | changes

    return add_target


def conditions():
    return read_table(Path("data/conditions.parquet"), "buckets").to_pylist()


def opened(row):
    return np.asarray(Image.open(Path("data/conditions") / row["path"]).convert("RGB"))


def cut(row):
    return Image.fromarray(pixels.crop_to_bucket(picture(), row))


def test_edges_lie_where_the_target_was_cut_and_mirrored(add):
    plain = add()
    add(variant=1, flipped=True)
    add(variant=2, crop_left=0)
    run(PARAMS)
    rows = conditions()
    assert [(row["role"], row["variant"]) for row in rows] == [("condition", v) for v in range(3)]
    edges, mirrored, moved = map(opened, rows)
    assert edges.shape == (32, 32, 3)
    assert set(np.unique(edges)) == {0, 255}
    assert 30 < (edges[..., 0] > 0).sum() < 80  # a line round the disc, one pixel wide
    inside = np.asarray(cut(plain))[..., 0] < 100
    near = np.pad(inside, 2)
    reach = np.any(
        [near[2 + y : 34 + y, 2 + x : 34 + x] for y in (-2, 0, 2) for x in (-2, 0, 2)], 0
    )
    assert reach[edges[..., 0] > 0].all()
    assert np.array_equal(moved[:, 2:], edges[:, :-2])
    assert np.abs(mirrored.astype(int) - edges[:, ::-1]).mean() < 255 * 0.05


def test_rows_have_the_bucket_of_the_target_and_need_no_further_cut(add):
    target = add(split="validation", repeats=3)
    run(PARAMS)
    (row,) = conditions()
    changed = {name for name in row if row[name] != target[name]}
    assert changed == {"role", "content", "path", "resize_width", "crop_left", "original_width"}
    image = Image.open(Path("data/conditions") / row["path"]).convert("RGB")
    assert pixels.content_hash(image) == row["content"]
    assert np.array_equal(pixels.crop_to_bucket(image, row), np.asarray(image))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Controlnet("grey"), lambda image: image.convert("L").convert("RGB")),
        (
            Controlnet("tile", tile_factor=4),
            lambda image: image.resize((8, 8), Image.Resampling.BOX).resize((32, 32)),
        ),
    ],
)
def test_greys_and_coarse_colours_are_those_of_the_cut_target(add, asked, expected):
    target = add()
    run(replace(PARAMS, controlnet=asked))
    (row,) = conditions()
    assert np.array_equal(opened(row), np.asarray(expected(cut(target))))


def test_a_blurred_target_keeps_its_mean_and_loses_its_edges(add):
    target = add()
    run(replace(PARAMS, controlnet=Controlnet("blur", blur_radius=4.0)))
    sharp, blurred = np.asarray(cut(target)).astype(int), opened(conditions()[0]).astype(int)
    assert abs(sharp.mean() - blurred.mean()) < 8
    assert np.abs(np.diff(blurred, axis=1)).max() < 0.3 * np.abs(np.diff(sharp, axis=1)).max()


def test_only_what_is_missing_is_made_and_what_no_target_needs_goes(add, capsys):
    add(0)
    run(PARAMS)
    before = {path: path.stat().st_mtime_ns for path in Path("data/conditions").iterdir()}
    table = Path("data/conditions.parquet").read_bytes()
    add(1)
    run(PARAMS)
    assert "2 condition pictures, 1 of them new" in capsys.readouterr().out
    assert before.items() <= {p: p.stat().st_mtime_ns for p in before}.items()
    run(replace(PARAMS, controlnet=replace(CANNY, canny_low=50.0)))
    assert "2 condition pictures, 2 of them new" in capsys.readouterr().out
    assert len(list(Path("data/conditions").iterdir())) == 2
    Path("data/buckets.parquet").unlink()
    write_table(Path("data/buckets.parquet"), to_table([add(0)], "buckets"), "buckets")
    run(PARAMS)
    assert Path("data/conditions.parquet").read_bytes() == table
    assert {path: path.read_bytes() for path in before}.keys() == before.keys()


def test_a_damaged_picture_is_made_again_with_the_same_bytes(add):
    add()
    run(PARAMS)
    (path,) = Path("data/conditions").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    run(PARAMS)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "changes",
    [{"method": "lora", "controlnet": None}, {"controlnet": Controlnet("given")}],
)
def test_where_nothing_is_to_be_made_the_outputs_are_empty(add, changes):
    add()
    run(PARAMS)
    Path("data/buckets.parquet").unlink()  # not even read
    run(replace(PARAMS, **changes))
    assert conditions() == []
    assert not list(Path("data/conditions").iterdir())


def test_a_target_that_has_changed_is_one_sentence(add):
    add()
    picture(seed=9).save("pictures/0.png")
    with pytest.raises(ValueError, match=r"0\.png is no longer the picture that ingest read: run"):
        run(PARAMS)


@pytest.fixture
def depth_model(tmp_path):
    """A Depth Anything of random weights."""
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=1,
        image_size=28,
        out_indices=[1, 2],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    folder = tmp_path / "depth"
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def test_depth_fills_the_greys_and_another_model_makes_it_anew(add, depth_model):
    add()
    asked = replace(PARAMS, controlnet=Controlnet("depth", depth_model=str(depth_model)))
    run(asked)
    first = opened(conditions()[0])
    assert (first.min(), first.max()) == (0, 255)
    assert first.shape == (32, 32, 3)
    before = maker_of(asked.controlnet).identity
    other = DepthAnythingForDepthEstimation.from_pretrained(depth_model)
    with torch.no_grad():
        other.head.conv1.weight += 1
    other.save_pretrained(depth_model)
    assert maker_of(asked.controlnet).identity != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "'nowhere' cannot be opened .there is no such folder.: give the folder or"),
        ("pictures", "'pictures' (cannot be opened|is no depth estimator)"),
    ],
)
def test_a_depth_model_that_is_not_there_is_one_sentence(add, name, message):
    add()
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        run(replace(PARAMS, controlnet=Controlnet("depth", depth_model=name)))
