"""Without cached latents every visit has a look of its own, and a fixed look trains as rows do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from modelzoo.autoencoders import load_autoencoder
from stages import encode_captions, pixels
from stages.artifacts import read_table
from stages.bucket import stage as bucket
from stages.check_captions import stage as check_captions
from stages.encode_images import stage as encode_images
from stages.ingest import stage as ingest
from stages.make_conditions import stage as make_conditions
from stages.params.read import read
from stages.picture_encoding import encoding
from stages.store.expected import Params as StoreParams
from stages.store.expected import expected_pictures
from stages.store.tables import list_tables, named_keys
from stages.train.batches import Batch
from stages.train.stage import Params, create_trainer, run, weights_fingerprint
from stages.train.trainer import Trainer
from stages.visit_geometry import Drawn
from tests import toys

STAGES = (ingest, check_captions, bucket, make_conditions, encode_images, encode_captions)
SIZES = ((48, 32), (40, 40), (32, 56), (60, 40), (90, 60), (44, 44), (50, 50), (33, 60))
FOLDERS = {"before": ".png", "mask": ".png"}  # beside the pictures
TRAINING = {
    "steps": 3,
    "batch_size": 3,
    "learning_rate": 1e-2,
    "log_every": 1,
    "validation": {"every": 2, "images": 2, "timesteps": [0.5]},
}
DATA = {
    "train_path": "pictures",
    "resolution": 32,
    "bucket_resolution_steps": 16,
    "min_bucket_resolution": 16,
    "max_bucket_resolution": 64,
    "validation_fraction": 0.3,
}
RANDOM = {"cache_latents": False, "crop": "random", "flip": True}
KONTEXT = {"references": ["before"]}, {"editing": "kontext"}
FILL = {"mask": "mask"}, {"editing": "fill", "method": "full_finetune"}
GREY = {}, {"method": "controlnet", "controlnet": {"conditioning_type": "grey"}}
EMBEDDED = {"conditioning_type": "grey", "embedding_channels": [4, 8]}
SDXL = {"objective": {"type": "ddpm", "timestep_sampling": "uniform"}, "posterior": "sample"}
SDXL_GREY = {}, {**SDXL, "method": "controlnet", "controlnet": EMBEDDED}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Callable[[str], Path]:
    """Toy bases, each made once."""
    made: dict[str, Path] = {}

    def base(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "base"
            toys.make_base(made[family], family)
        return made[family]

    return base


class World:
    """A folder with pictures, what belongs to them, and a base."""

    def __init__(self, base: Path, family: str) -> None:
        self.family = family
        shutil.copytree(base, "data/base")
        toys.move_records(Path("data/base").absolute(), base)
        for number, size in enumerate(SIZES):
            self.draw(f"{number}.png", number, size)
            Path(f"pictures/{number}.txt").write_text(f"picture {number % 3}")
            for shift, folder in enumerate(FOLDERS, 1):
                self.draw(f"{folder}/{number}.png", 100 * shift + number, size)

    def draw(self, name: str, seed: int, size: tuple[int, int]) -> None:
        values = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        path = Path("pictures") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).resize(size, Image.Resampling.BICUBIC).save(path)

    def prepare(self, data: dict[str, Any], training: dict[str, Any], **hardware: Any) -> Params:
        """Run the stages before training, and read what it reads."""
        given = {"references": [], **DATA, **data, "store": str(Path("store").absolute())}
        left = {
            folder for folder in FOLDERS if folder not in (given.get("mask"), *given["references"])
        }
        for folder in left:
            shutil.rmtree(Path("pictures") / folder, ignore_errors=True)
        hardware = {"threads": 1, "encode_batch_size": 4, "decode_workers": 0, **hardware}
        tree = {
            "experiment": {"name": "toy", "output_dir": "outputs/toy", "seed": 1},
            "model": {"type": self.family, "dtype": "float32"},
            "training": {**TRAINING, **training},
            "data": given,
            "hardware": hardware,
            "tracking": {"mlflow": False},
        }
        Path("params.yaml").write_text(yaml.safe_dump(tree))
        for stage in STAGES:
            stage.run(read(stage.Params))
        return read(Params)


@pytest.fixture
def world(bases, tmp_path, monkeypatch) -> Callable[[str], World]:
    """Make the working folder a world."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIFFBASE_STORE", raising=False)
    before = torch.get_num_threads()
    yield lambda family: World(bases(family), family)
    torch.set_num_threads(before)


def outcome() -> dict[str, bytes]:
    """The bytes of weights and curves, which the last training wrote."""
    found = [*Path("data/train/weights").iterdir(), *Path("data/train/curves").iterdir()]
    return {path.name: path.read_bytes() for path in found}


@pytest.mark.parametrize(
    ("family", "of_data", "of_training", "hardware"),
    [
        ("flux2", *KONTEXT, {}),
        ("flux2", *FILL, {"decode_workers": 1, "threads": 2}),
        ("flux2", *GREY, {}),
        ("sdxl", *SDXL_GREY, {}),
    ],
)
def test_a_fixed_look_trains_to_the_bytes_of_cached_rows(
    world, family, of_data, of_training, hardware
):
    here = world(family)
    run(here.prepare(of_data, of_training, **hardware))
    cached = outcome()
    shutil.rmtree("store")  # with its checkpoints
    run(here.prepare({**of_data, "cache_latents": False}, of_training, **hardware))
    assert outcome() == cached
    assert {place.kind for place in list_tables("store")} == {"text", "probes"}


def batches_of(trainer: Trainer, steps: int) -> list[Batch]:
    return [batch for step in range(steps) for batch in trainer.batches.at(step)]


def test_what_belongs_to_a_target_is_cut_and_mirrored_with_it_at_each_visit(world):
    """SDXL's conditions are pixels, here the picture's greys: they show what a visit looks at."""
    params = world("sdxl").prepare(RANDOM, {**SDXL_GREY[1], "posterior": "mean"})
    rows = read_table(Path("data/buckets.parquet"), "buckets").to_pylist()
    assert len(rows) == len(SIZES)  # one row a picture, however often it is cut
    targets = {row["sample_id"]: row for row in rows}
    encode = encoding(load_autoencoder(Path("data/base/model/vae")), torch.float32)
    seen: dict[str, set[tuple[int, int, bool]]] = {}
    for batch in batches_of(create_trainer(params), 40):
        for place, name in enumerate(batch.names):
            _, _, top, left, _, _ = batch.conditions["sizes"][place].tolist()
            for flipped in (False, True):
                look = {**targets[name], "crop_top": top, "crop_left": left, "flipped": flipped}
                cut = pixels.crop_to_bucket(Image.open(f"pictures/{look['path']}"), look)
                grey = np.asarray(Image.fromarray(cut).convert("L"), np.float32) / 255
                if np.array_equal(batch.condition[place, 0].numpy(), grey):
                    break
            else:
                raise AssertionError("the condition is not the cut that the network is told of")
            mean = encode(cut[None])["mean"][0]
            np.testing.assert_allclose(batch.latents[place].numpy(), mean, rtol=1e-4, atol=1e-5)
            seen.setdefault(name, set()).add((left, top, flipped))
    cut_off = [name for name in seen if targets[name]["resize_width"] > targets[name]["width"] + 4]
    assert cut_off
    assert all(len(seen[name]) > 4 for name in cut_off)
    assert {flipped for of in seen.values() for _, _, flipped in of} == {False, True}


def test_a_reference_of_another_size_keeps_its_middle_and_is_mirrored_with_its_target():
    target = {"role": "target", "original_width": 90, "original_height": 60, "flipped": False}
    target |= {"resize_width": 48, "resize_height": 32, "width": 32, "height": 32}
    target |= {"crop_left": 8, "crop_top": 0}
    larger = {**target, "role": "reference", "original_width": 180, "original_height": 120}
    mask = {**larger, "role": "mask"}
    masked = {**target, "role": "masked", "mask": mask}
    look = Drawn(crop=True, flip=True).at
    draws = (0.999, 0.5, 0.2)
    corner = {"crop_left": 16, "crop_top": 0, "flipped": True}
    assert look(target, target, draws) == target | corner
    assert look(larger, target, draws) == larger | {"flipped": True}
    assert look(mask, target, draws) == mask | corner
    assert look(masked, target, draws) == masked | corner | {"mask": mask | corner}
    assert Drawn(crop=False, flip=False).at(target, target, draws) == target


def test_what_a_step_trains_on_depends_on_no_step_before_it(world):
    params = world("flux2").prepare({**RANDOM, "mask": "mask"}, FILL[1], decode_workers=1)
    whole, resumed = create_trainer(params).batches, create_trainer(params).batches
    with whole.samples.latent_rows.reading():
        steps = [whole.at(step) for step in range(6)]
    for batch, again in zip(steps[5], resumed.at(5), strict=True):
        assert batch.visits == again.visits
        for name in ("latents", "mask", "masked"):
            assert torch.equal(getattr(batch, name), getattr(again, name))
    looks = {batch.latents.numpy().tobytes() for step in steps for batch in step}
    assert len(looks) == sum(map(len, steps))


def test_validation_encodes_its_pictures_once(world):
    params = world("flux2").prepare(RANDOM, {})
    trainer = create_trainer(params)
    first = trainer.validation.measure(trainer.state)
    shutil.rmtree("pictures")
    assert trainer.validation.measure(trainer.state) == first
    with pytest.raises(ValueError, match="is no longer the picture that ingest read"):
        trainer.batches.at(0)


def test_the_weights_are_named_by_the_pictures_and_by_how_they_are_seen(world):
    here = world("flux2")
    names = [weights_fingerprint(here.prepare(RANDOM, {}))]
    assert names == [weights_fingerprint(here.prepare(RANDOM, {}))]
    for data, hardware in (
        ({**RANDOM, "flip": False}, {}),
        ({**RANDOM, "crop": "center"}, {}),
        ({**RANDOM, "cache_latents": True}, {}),
        (RANDOM, {"encode_batch_size": 2}),
    ):
        names.append(weights_fingerprint(here.prepare(data, {}, **hardware)))
    here.draw("0.png", 77, SIZES[0])
    names.append(weights_fingerprint(here.prepare(RANDOM, {})))
    assert len(set(names)) == len(names) == 6


def test_no_row_of_pictures_is_kept_or_missed(world, capsys):
    world("flux2").prepare(RANDOM, {})
    said = capsys.readouterr().out
    assert "nothing encoded: data.cache_latents is false" in said
    assert {name.partition("-")[0] for name in named_keys()} == {"text"}
    assert expected_pictures(read(StoreParams)) == []
