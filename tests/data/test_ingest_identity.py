"""A picture is its content: names, places, order and times of files change no row."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.conftest import picture
from tests.data.ingesting import Ingested, ingest

NAMES = st.text("abcdefgh -_ü", min_size=1, max_size=8).map(str.strip).filter(bool)
SEEDS = st.lists(st.integers(0, 4), min_size=2, max_size=7)  # of pictures: equal ones are copies
SPLITS = st.sampled_from([0.0, 0.3])


def write(folder: Path, names: list[str], seeds: list[int], captions: list[str]) -> None:
    folder.mkdir()
    rows = []
    for name, seed, caption in zip(names, seeds, captions, strict=True):
        picture(seed).save(folder / name)
        rows.append({"image": name, "caption": caption})
    (folder / "metadata.json").write_text(json.dumps(rows))


def without_paths(found: Ingested) -> list[dict[str, Any]]:
    return [{name: row[name] for name in row if name != "path"} for row in found.rows]


@settings(max_examples=30, deadline=None)
@given(st.data(), SEEDS, SPLITS)
def test_renaming_and_reordering_change_nothing_but_paths(
    data: st.DataObject, seeds: list[int], fraction: float
) -> None:
    count = len(seeds)
    names = st.lists(NAMES, min_size=count, max_size=count, unique=True)
    captions = data.draw(st.lists(st.sampled_from("xyz"), min_size=count, max_size=count))
    order = data.draw(st.permutations(range(count)))
    first = [f"{name}.png" for name in data.draw(names)]
    second = [f"{name}.bmp" for name in data.draw(names)]
    if fraction and len(set(seeds)) < 4:
        fraction = 0.0  # few pictures may all fall to validation, which is refused
    with TemporaryDirectory() as place:
        root = Path(place)
        write(root / "a", first, seeds, captions)
        write(root / "b", second, [seeds[i] for i in order], [captions[i] for i in order])
        before = ingest(root / "a", root / "out_a", validation_fraction=fraction)
        after = ingest(root / "b", root / "out_b", validation_fraction=fraction)
        assert without_paths(before) == without_paths(after)
        by_content: dict[str, set[str]] = {}
        for row in before.rows:
            by_content.setdefault(row["content"], set()).add(row["split"])
        assert all(len(splits) == 1 for splits in by_content.values())
        assert len({row["sample_id"] for row in before.rows}) == count


def test_the_same_dataset_gives_the_same_bytes_whatever_the_order_and_the_times(
    eight_images: Path, tmp_path: Path
) -> None:
    before = ingest(eight_images, tmp_path / "out")
    copied = shutil.copytree(eight_images, tmp_path / "copied", copy_function=shutil.copyfile)
    rows = json.loads((copied / "metadata.json").read_text())
    (copied / "metadata.json").write_text(json.dumps(rows[::-1]))
    assert ingest(copied, tmp_path / "again").written == before.written


def test_copies_are_numbered_by_captions_first_then_by_paths(
    eight_images: Path, tmp_path: Path
) -> None:
    rows = [
        {"image": "a.png", "caption": "late"},
        {"image": "b.bmp", "caption": "early"},
        {"image": "c.png", "caption": "early"},
    ]
    for row in rows:
        picture(5).save(eight_images / row["image"])
    (eight_images / "metadata.json").write_text(json.dumps(rows))
    targets = ingest(eight_images, tmp_path / "out").targets
    first = targets["b.bmp"]["sample_id"]
    assert first == targets["a.png"]["content"][:20]
    assert targets["c.png"]["sample_id"] == f"{first}-1"
    assert targets["a.png"]["sample_id"] == f"{first}-2"


def test_a_picture_in_another_file_format_is_the_same_sample(
    eight_images: Path, tmp_path: Path
) -> None:
    before = {row["sample_id"] for row in ingest(eight_images, tmp_path / "out").rows}
    file = io.BytesIO()
    Image.open(eight_images / "0.png").save(file, "bmp")
    (eight_images / "0.png").write_bytes(file.getvalue())
    after = {row["sample_id"] for row in ingest(eight_images, tmp_path / "out").rows}
    assert after == before
