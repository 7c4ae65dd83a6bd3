"""Pictures of DreamBooth's class: made once, kept, and read as a second dataset."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages import encode_captions
from stages.artifacts import read_table
from stages.bucket import stage as bucket
from stages.check_captions import stage as check_captions
from stages.class_images import class_caption, rare_words, read_index, told_of_class
from stages.encode_images import stage as encode_images
from stages.generate_class_images import making
from stages.generate_class_images import stage as generate_class_images
from stages.generate_class_images.stage import Params, run
from stages.ingest import stage as ingest
from stages.make_conditions import stage as make_conditions
from stages.params import schema
from stages.params.captions import Captions
from stages.params.methods import Dreambooth
from stages.params.read import read
from stages.report_dataset import stage as report_dataset
from stages.train import stage as train
from tests.data.ingesting import ingest_params

INSTANCE, CLASS = "sks handwritten digits", "handwritten digits"
OUTPUT = Path("data/class_images")


@pytest.fixture
def params(data: Path, tmp_path: Path) -> Params:
    """Ask for four small pictures of a base that is the working folder's."""
    return Params("dreambooth", settings(), 16, "flux2", None, "float32", 1, str(tmp_path / "kept"))


def settings(**changes: Any) -> Dreambooth:
    given = {"instance_prompt": INSTANCE, "class_prompt": CLASS, "num_class_images": 4}
    given |= {"class_images": {"steps": 1, "cfg_scale": 1.0}}
    return schema.build(Dreambooth, given | changes, "test", "training.dreambooth")


def asking(params: Params, **changes: Any) -> Params:
    return replace(params, dreambooth=settings(**changes))


def written() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in OUTPUT.glob("*.png")}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The places of all pictures that the base has made."""
    places: list[int] = []

    def generate(*arguments: Any, **options: Any) -> Any:
        places.extend(options["places"])
        return making_generate(*arguments, **options)

    making_generate = making.generate
    monkeypatch.setattr(making, "generate", generate)
    return places


def test_more_pictures_are_made_and_none_is_made_again(params: Params, made: list[int]) -> None:
    run(params)
    four = written()
    assert sorted(four) == [f"{i:06}.png" for i in range(4)]
    assert len(set(four.values())) == 4
    run(asking(params, num_class_images=6))
    assert made == [0, 1, 2, 3, 4, 5]
    six = written()
    assert {name: six[name] for name in four} == four
    run(asking(params, num_class_images=2))
    assert made == [0, 1, 2, 3, 4, 5]
    assert written() == {name: six[name] for name in sorted(six)[:2]}


def test_a_picture_is_the_same_whenever_it_is_made(params: Params, tmp_path: Path) -> None:
    run(params)
    run(asking(params, num_class_images=6))
    grown = written()
    run(replace(asking(params, num_class_images=6), store=str(tmp_path / "another")))
    assert written() == grown


@pytest.mark.parametrize(
    "changes",
    [
        {"class_prompt": "handwritten digits one"},
        {"class_images": {"steps": 1, "cfg_scale": 1.0, "seed": 1}},
        {"class_images": {"steps": 2, "cfg_scale": 1.0}},
        {"class_images": {"steps": 1, "cfg_scale": 1.0, "width": 32}},
    ],
)
def test_another_way_of_making_makes_all_anew(
    params: Params, made: list[int], changes: dict[str, Any]
) -> None:
    run(params)
    run(asking(params, **changes))
    assert made == [0, 1, 2, 3] * 2


def test_another_base_makes_all_anew_and_the_training_changes_none(
    params: Params, made: list[int], data: Path
) -> None:
    run(params)
    run(asking(params, prior_preservation_weight=0.3))
    assert made == [0, 1, 2, 3]
    record = data / "base" / "denoiser.json"
    described = json.loads(record.read_text())
    record.write_text(json.dumps(described | {"digest": "another"}))
    run(params)
    assert made == [0, 1, 2, 3] * 2


def test_a_damaged_picture_is_made_again_and_an_edited_copy_changes_nothing(
    params: Params, made: list[int], tmp_path: Path
) -> None:
    run(params)
    four = written()
    (OUTPUT / "000001.png").write_bytes(b"edited")
    (kept,) = tmp_path.glob("kept/class_images/*/000002.png")
    kept.write_bytes(kept.read_bytes()[:-20])
    run(params)
    assert made == [0, 1, 2, 3, 2]
    assert written() == four


def test_a_killed_stage_keeps_the_batches_that_were_made(
    params: Params, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.generation.MAX_BATCH", 2)
    kept = making.kept.keep

    def die(path: Path, picture: Any) -> None:
        if path.name == "000002.png":
            raise KeyboardInterrupt
        kept(path, picture)

    monkeypatch.setattr(making.kept, "keep", die)
    with pytest.raises(KeyboardInterrupt):
        run(params)
    assert not OUTPUT.exists()
    monkeypatch.setattr(making.kept, "keep", kept)
    run(params)
    assert made == [0, 1, 2, 3, 2, 3]


def test_each_picture_draws_its_own_part_of_the_prompt(params: Params) -> None:
    run(asking(params, class_prompt="handwritten digits {one|two|three}", num_class_images=8))
    prompts = [picture.prompt for picture in read_index(OUTPUT).pictures]
    assert {"handwritten digits one", "handwritten digits two"} <= set(prompts)
    run(asking(params, class_prompt="handwritten digits {one|two|three}", num_class_images=3))
    assert [picture.prompt for picture in read_index(OUTPUT).pictures] == prompts[:3]


@pytest.mark.parametrize(
    ("method", "changes"),
    [("full_finetune", {}), ("dreambooth", {"num_class_images": 0, "prior": "prediction"})],
)
def test_without_class_images_only_an_index_is_written(
    params: Params, method: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "complete", None)
    run(replace(asking(params, **changes), method=method))
    assert [path.name for path in OUTPUT.iterdir()] == ["index.json"]
    prior = read_index(OUTPUT)
    assert prior.kind == ("prediction" if method == "dreambooth" else "")


def test_a_caption_of_the_subject_becomes_one_of_its_class() -> None:
    prompts = "a photo of sks dog", "a photo of a dog"
    assert rare_words(*prompts) == ["sks"]
    assert class_caption("a photo of sks dog on a beach", *prompts) == "a photo of a dog on a beach"
    assert class_caption("SKS dog on a beach", *prompts) == "dog on a beach"


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    """Five pictures, one of them with a caption of its own."""
    folder = tmp_path / "subject"
    folder.mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "0.txt").write_text("sks digits, alone")
    return folder


def ingested(subject: Path, **changes: Any) -> Callable[[str], list[dict[str, Any]]]:
    ingest.run(ingest_params(subject, **changes))
    tables = {"images": "data/images.parquet", "ledger": "data/ledger/ingest.parquet"}
    return lambda name: read_table(Path(tables[name]), name).to_pylist()


def test_the_class_is_a_second_dataset_that_is_never_validated(
    params: Params, subject: Path
) -> None:
    run(params)
    rows = ingested(subject, validation_fraction=0.4)
    of_class = [row for row in rows("images") if row["prior"]]
    own = {row["path"]: row for row in rows("images") if not row["prior"]}
    assert [row["path"] for row in sorted(of_class, key=lambda row: row["path"])] == [
        f"./data/class_images/{i:06}.png" for i in range(4)
    ]
    assert {(*row["captions"], row["split"], row["dataset"]) for row in of_class} == {
        (CLASS, "train", "class images")
    }
    assert own.keys() == {f"{i}.png" for i in range(5)}
    assert own["0.png"]["captions"] == ["sks digits, alone"]
    assert {tuple(row["captions"]) for row in own.values()} == {("sks digits, alone",), (INSTANCE,)}
    assert {row["split"] for row in own.values()} == {"train", "validation"}
    ledger = {row["path"]: row["fate"] for row in rows("ledger")}
    assert ledger.keys() == own.keys() | {row["path"] for row in of_class}
    assert set(ledger.values()) == {"kept", "validation"}


def test_a_dataset_cannot_name_files_of_the_working_folder(subject: Path, params: Params) -> None:
    run(params)
    (subject / "metadata.json").write_text(
        json.dumps([{"image": "./data/class_images/000000.png", "caption": "sks"}])
    )
    for path in subject.glob("*.txt"):
        path.unlink()
    with pytest.raises(ValueError, match="cannot be used"):
        ingested(subject)


def test_captions_of_the_class_are_told_as_they_are(params: Params, subject: Path) -> None:
    run(params)
    ingested(subject)
    asked = Captions(prefix="a photo: ", trigger_word="sks", min_trigger_fraction=1.0)
    check_captions.run(check_captions.Params("flux2", str(subject), 0.0, asked, 0))
    images = read_table(Path("data/images.parquet"), "images").to_pylist()
    of_class = {row["sample_id"] for row in images if row["prior"]}
    captions = read_table(Path("data/captions.parquet"), "captions").to_pylist()
    assert len(captions) == len(images)
    for row in captions:
        told = CLASS if row["sample_id"] in of_class else "a photo: sks "
        assert row["caption"].startswith(told)


def test_a_caption_that_does_not_name_the_subject_is_refused(params: Params, subject: Path) -> None:
    run(params)
    (subject / "0.txt").write_text("digits, alone")
    ingested(subject)
    asked = check_captions.Params("flux2", "mine", 0.0, Captions(), 0)
    with pytest.raises(ValueError, match=r"^mine: 1 of 5 .* without 'sks', .*: 0\.png; write it"):
        check_captions.run(asked)


def test_where_predictions_are_the_prior_the_class_captions_are_encoded(params: Params) -> None:
    run(asking(params, num_class_images=0, prior="prediction"))
    told = told_of_class(read_index(OUTPUT), {INSTANCE, "sks digits, alone"})
    assert told == {CLASS, "digits, alone"}


@pytest.mark.parametrize("prior", ["images", "prediction"])
def test_the_subject_is_learned_from_its_pictures_and_the_prior(
    params: Params, subject: Path, prior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages in turn: what generate_class_images writes reaches the loss of each step."""
    monkeypatch.delenv("DIFFBASE_STORE", raising=False)
    number = 3 if prior == "images" else 0
    given = {"instance_prompt": INSTANCE, "class_prompt": CLASS, "prior": prior}
    given |= {"num_class_images": number, "class_images": {"steps": 1, "cfg_scale": 1.0}}
    training = {"method": "dreambooth", "dreambooth": given, "steps": 3, "batch_size": 2}
    sizes = {"resolution": 16, "bucket_resolution_steps": 8, "min_bucket_resolution": 8}
    tree = {
        "experiment": {"name": "toy", "output_dir": "outputs", "seed": 1},
        "model": {"type": "flux2", "dtype": "float32"},
        "training": training | {"log_every": 1, "validation": {"every": 3, "timesteps": [0.5]}},
        "data": {"train_path": str(subject), "store": params.store, **sizes},
        "hardware": {"threads": 1},
        "tracking": {"mlflow": False},
    }
    Path("params.yaml").write_text(json.dumps(tree))
    stages = (generate_class_images, ingest, check_captions, bucket, make_conditions)
    for module in (*stages, report_dataset, encode_images, encode_captions, train):
        module.run(read(module.Params))
    latents = read_table(Path("data/latents.parquet"), "latents").to_pylist()
    assert sum(row["prior"] for row in latents) == number
    ledger = pq.read_table("data/train/ledger.parquet").to_pylist()
    assert len(ledger) == 4 + number
    with Path("data/train/curves/loss.csv").open() as file:
        of_class = [float(row["loss_class"]) for row in csv.DictReader(file)]
    assert len(of_class) == 3
    assert (of_class[0] == 0) == (prior == "prediction")  # as yet it is the base itself
    assert of_class[-1] > 0
