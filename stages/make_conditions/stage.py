"""Make the pictures that a ControlNet follows, one of each target in its bucket."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from stages import launch, pixels
from stages.artifacts import extra_metadata, read_table, staging, write_table
from stages.conditions.making import GIVEN, Maker, maker_of
from stages.known_pictures import cut_to_bucket
from stages.params.methods import Controlnet
from stages.params.read import key
from stages.picture_rows import GEOMETRY, Bucketed
from stages.rows.keys import row_key
from stages.tables import to_table
from stages.visit_geometry import Drawn

METHOD = "controlnet"  # of training.method; others follow no pictures
SUFFIX = ".png"


@dataclass(frozen=True)
class Params:
    """What is made, and of which dataset."""

    train_path: str = key("data.train_path")
    background: str = key("data.background")
    max_pixels: int = key("data.max_pixels", tracked=False)
    method: str = key("training.method")
    controlnet: Controlnet | None = key("training.controlnet")
    threads: int = key("hardware.threads")


@dataclass(frozen=True)
class Artifacts:
    """Geometry of the targets in; pictures and their rows, in the columns of BUCKETS, out."""

    buckets: Path = Path("data/buckets.parquet")
    pictures: Path = Path("data/conditions")  # kept between runs, each named by what it is made of
    conditions: Path = Path("data/conditions.parquet")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Make the pictures that are missing, remove those of no target, and write a row of each.

    Where another method trains, or the dataset brings the pictures, both outputs are empty.

    Raises:
        FileNotFoundError: The depth model is not there.
        ValueError: A target has changed since it was ingested.
    """
    asked = params.controlnet
    folder = artifacts.pictures
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    num_made = 0
    if params.method == METHOD and asked is not None and asked.conditioning_type != GIVEN:
        if asked.conditioning_type == "depth":
            launch.use_threads(params.threads)
        maker = maker_of(asked)
        buckets = read_table(artifacts.buckets, "buckets")
        targets = [row for row in buckets.to_pylist() if row["role"] == "target"]
        drawn = Drawn.from_metadata(extra_metadata(buckets))
        shown = [whole(row) for row in targets] if drawn and drawn.crop else targets
        names = [picture_name(target, maker) for target in shown]
        num_made = make(params, folder, maker, dict(zip(names, shown, strict=True)))
        together = zip(targets, shown, names, strict=True)
        rows = [condition_row(*each, folder) for each in together]
    for path in set(folder.iterdir()) - {folder / row["path"] for row in rows}:
        path.unlink()
    write_table(artifacts.conditions, to_table(rows, "buckets"), "buckets")
    print(f"{len(rows)} condition pictures, {num_made} of them new")  # noqa: T201


def whole(target: Bucketed) -> dict[str, Any]:
    """Return a target that is resized and not cut: of it every visit cuts another part."""
    size = {"width": target["resize_width"], "height": target["resize_height"]}
    return {**target, **size, "crop_left": 0, "crop_top": 0}


def picture_name(target: Bucketed, maker: Maker) -> str:
    """Name a picture by all that determines it."""
    digest = row_key(
        content=target["content"],
        pixels=pixels.CONVENTION,
        geometry=[target[name] for name in GEOMETRY],
        **maker.identity,
    )
    return digest[:40] + SUFFIX


def make(params: Params, folder: Path, maker: Maker, targets: Mapping[str, Bucketed]) -> int:
    """Make the pictures that are not in the folder, by their names; return how many."""
    missing = {name: target for name, target in targets.items() if not _is_there(folder / name)}

    def make_one(item: tuple[str, Bucketed]) -> None:
        name, target = item
        cut = cut_to_bucket(Path(params.train_path), target, params.background, params.max_pixels)
        with staging(folder / name) as staged:
            maker(Image.fromarray(cut)).save(staged, format="PNG")

    with ThreadPoolExecutor(os.cpu_count()) as threads, _bar(missing) as bar:
        for _ in threads.map(make_one, missing.items()):
            bar.update()
    return len(missing)


def condition_row(target: Bucketed, shown: Bucketed, name: str, folder: Path) -> dict[str, Any]:
    """Return the row of a condition picture, which is made of what is `shown` of its target."""
    image = pixels.open_rgb((folder / name).read_bytes()).image
    width, height = shown["width"], shown["height"]
    if image.size != (width, height):
        raise ValueError(
            f"{folder / name} is {image.width}x{image.height} pixels, but its target is cut to "
            f"{width}x{height}: delete it and run `dvc repro`"
        )
    geometry = {"resize_width": width, "resize_height": height}
    geometry |= {name: target[name] - shown[name] for name in ("crop_left", "crop_top")}
    original = {"original_width": width, "original_height": height, "flipped": False}
    content = pixels.content_hash(image)
    return {**target, "role": "condition", "path": name, "content": content, **geometry, **original}


def _is_there(path: Path) -> bool:
    """Tell whether a whole picture is there."""
    if not path.is_file():
        return False
    try:
        pixels.open_rgb(path.read_bytes())
    except pixels.UnreadableImageError:
        path.unlink()
        return False
    return True


def _bar(missing: Sequence[Any] | Mapping[str, Any]) -> Any:
    return tqdm(total=len(missing), desc="make_conditions", unit="picture", disable=not missing)
