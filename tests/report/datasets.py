"""Datasets that look like a person's own, taken through the stages before the report."""

from __future__ import annotations

import colorsys
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_sample_images

from modelzoo.text_encoders.tokenizer_training import train_tokenizer
from stages.base_record import Part, write_record
from stages.bucket.stage import Artifacts as BucketArtifacts
from stages.bucket.stage import Params as BucketParams
from stages.bucket.stage import run as run_bucket
from stages.check_captions import stage as check_captions
from stages.ingest.stage import Artifacts as IngestArtifacts
from stages.ingest.stage import Params as IngestParams
from stages.ingest.stage import run as run_ingest
from stages.params.captions import Captions
from stages.params.read import read
from stages.report_dataset.stage import Artifacts, Params, run

WORDS = ["a photograph of", "flower temple garden field hills sky at dusk in the rain"]
SIZES = ((960, 640), (640, 960), (768, 768), (1200, 500), (512, 640), (900, 700))


def photographs() -> list[Image.Image]:
    """The two photographs that scikit-learn carries: a temple and a flower, 640x427."""
    return [Image.fromarray(each) for each in load_sample_images().images]


def colour(hue: float, saturation: float, value: float) -> list[int]:
    """Return red, green and blue, 0 to 255."""
    return [round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value)]


def scene(seed: int, width: int, height: int) -> Image.Image:
    """Draw hills under a sky, as different from seed to seed as pictures are."""
    rng = np.random.default_rng(seed)
    hue = rng.uniform()
    high, low = colour(hue, 0.35, 0.95), colour(hue + rng.uniform(0.05, 0.3), 0.45, 0.95)
    fade = np.linspace(0, 1, height)[:, None, None]
    grain = rng.normal(0, 5, (height, width, 1))
    sky = (1 - fade) * np.array(high) + fade * np.array(low) + grain
    image = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    x, y, radius = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.5) * height, height * 0.09
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 244, 214))
    for depth in range(3):
        top = height * (0.5 + 0.14 * depth)
        across = np.linspace(0, width, 60)
        waves = sum(
            rng.uniform(0.02, 0.08)
            * np.sin(across / width * rng.uniform(3, 16) + rng.uniform(0, 6))
            for _ in range(3)
        )
        edge = list(zip(across, top + waves * height, strict=True))
        fill = colour(hue + rng.uniform(0.3, 0.7), 0.45, 0.68 - 0.2 * depth)
        pen.polygon([*edge, (width, height), (0, height)], fill=tuple(fill))
    return image.filter(ImageFilter.GaussianBlur(0.8))


def caption_of(seed: int) -> str:
    rng = np.random.default_rng(seed)
    what = rng.permutation(["rolling hills", "a low sun", "a hazy sky", "soft light", "film grain"])
    return f"a photograph of {', '.join(what[: 2 + seed % 3])}"


def add(folder: Path, name: str, image: Image.Image, caption: str | None, **how: Any) -> Path:
    """Save a picture beside its caption."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def make_lifelike(folder: Path, pictures: int = 40) -> Path:
    """Make a folder with the usual pictures and the usual troubles."""
    temple, flower = photographs()
    for i in range(pictures):
        size = SIZES[i % len(SIZES)]
        add(folder, f"hills/{i:03}.jpg", scene(i, *size), caption_of(i), quality=88)
    add(folder, "temple/full.jpg", temple, "a photograph of a temple in a park", quality=92)
    for i, box in enumerate(((0, 0, 427, 427), (150, 0, 640, 400), (100, 20, 380, 427))):
        add(folder, f"temple/{i}.png", temple.crop(box), f"detail {i} of a temple")
        add(folder, f"flower/{i}.webp", flower.crop(box), f"close-up {i} of a flower", quality=90)
    add(folder, "flower/wide.jpg", flower, "a flower, " + "very much in bloom, " * 14, quality=90)
    trouble(folder, flower)
    return folder


def trouble(folder: Path, flower: Image.Image) -> None:
    """Add what goes wrong in real datasets."""
    copies = folder / "copies"
    copies.mkdir()
    for name in ("000.jpg", "000.txt", "001.jpg", "001.txt"):
        shutil.copy(folder / "hills" / name, copies / name)
    add(copies, "smaller.jpg", flower.resize((600, 400)), "the flower once more", quality=60)
    add(copies, "grey.jpg", flower.convert("L"), "the flower <b>in grey</b> &amp; more")
    turned = Image.Exif()
    turned[0x0112] = 6
    add(folder, "turned.jpg", scene(91, 800, 600), "a photograph of hills, turned", exif=turned)
    add(folder, "print.jpg", scene(92, 700, 520).convert("CMYK"), "a photograph for print")
    tag = Image.new("RGBA", (600, 500), (0, 0, 0, 0))
    ImageDraw.Draw(tag).ellipse((60, 60, 540, 440), fill=(200, 60, 80, 255))
    add(folder, "sticker.png", tag, "a red sticker, a photograph of nothing")
    add(folder, "no caption.jpg", scene(93, 600, 600), None)
    add(folder, "blank.jpg", scene(94, 600, 620), "  \n")
    add(folder, "icon.png", scene(95, 120, 90), "a small icon")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "empty.txt").write_text("nothing")
    whole = add(folder, "half.jpg", scene(96, 640, 480), "half a picture").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "alone.txt").write_text("a caption without its picture")
    (folder / "notes.md").write_text("# where these come from")


@dataclasses.dataclass(frozen=True)
class Reported:
    """A dataset that went through all stages up to the report."""

    artifacts: Artifacts
    params: Params

    @property
    def html(self) -> str:
        return self.artifacts.page.read_text(encoding="utf-8")

    def again(self) -> None:
        run(self.params, self.artifacts)


def report(root: Path, out: Path, data: Mapping[str, Any], **captions: Any) -> Reported:
    """Take a dataset through ingest, check_captions, bucket and report_dataset.

    Args:
        root: The dataset.
        out: A folder for everything that is written.
        data: Keys of section data.
        captions: Keys of data.captions.
    """
    prepared = prepare(root, out, data, **captions)
    prepared.again()
    return prepared


def prepare(root: Path, out: Path, data: Mapping[str, Any], **captions: Any) -> Reported:
    """Do all of `report` but the report."""
    out.mkdir(parents=True, exist_ok=True)
    section = {"train_path": str(root), "max_bad_fraction": 0.5, **data}
    (out / "params.yaml").write_text(yaml.safe_dump({"data": section}))
    params = out / "params.yaml"
    artifacts = Artifacts(*(out / path.name for path in dataclasses.astuple(Artifacts())))
    artifacts = dataclasses.replace(
        artifacts,
        captions_ledger=out / "ledger" / "captions.parquet",
        bucket_ledger=out / "ledger" / "bucket.parquet",
        ingest_ledger=out / "ledger" / "ingest.parquet",
    )
    run_ingest(
        read(IngestParams, params),
        IngestArtifacts(
            artifacts.images, artifacts.ingest_ledger, artifacts.ingest_report, out / "seen"
        ),
    )
    record = record_tokenizers(out / "tokenizers")
    check_captions.run(
        check_captions.Params("flux", str(root), 0.5, Captions(**captions), 0),
        check_captions.Artifacts(
            artifacts.images,
            record,
            artifacts.captions,
            artifacts.caption_report,
            artifacts.captions_ledger,
            out / "caption_lengths.csv",
        ),
    )
    run_bucket(
        read(BucketParams, params),
        BucketArtifacts(
            artifacts.images,
            artifacts.captions,
            artifacts.buckets,
            artifacts.bucket_report,
            artifacts.bucket_ledger,
        ),
    )
    return Reported(artifacts, read(Params, params))


def record_tokenizers(folder: Path) -> Path:
    """Train the two tokenizers of FLUX.1 at toy sizes."""
    parts = {}
    for name, kind, length in (("tokenizer", "clip_l", 77), ("tokenizer_2", "t5", 256)):
        if not (folder / kind).is_dir():
            train_tokenizer(kind, [*WORDS, *map(caption_of, range(40))], 700, length, folder / kind)
        parts[name] = Part(kind, folder / kind, "")
    write_record(folder / "tokenizer.json", parts, {"lengths": {}})
    return folder / "tokenizer.json"


def make_editing(folder: Path, pictures: int = 6) -> Path:
    """Make a dataset of targets with two references and a mask each, in parallel folders."""
    for i in range(pictures):
        width, height = SIZES[i % 3]
        add(folder, f"{i}.png", scene(i, width, height), f"edit {i}, a photograph")
        add(folder, f"before/{i}.png", scene(50 + i, width, height), None)
        add(folder, f"style/{i}.jpg", scene(100 + i, 700, 500), None)
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).ellipse((60, 60, width // 2, height // 2), fill=255)
        add(folder, f"mask/{i}.png", mask, None)
    return folder


EDITING = {"references": ["before", "style"], "mask": "mask", "validation_fraction": 0.0}
