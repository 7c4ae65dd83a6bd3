"""The page as a file: whole, alone, small, the same again, and deaf to what captions say."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.artifacts import read_json
from stages.report_dataset.album import LARGEST, PIXELS, photograph, shrink
from stages.report_dataset.alike import GROUPS, OF_A_GROUP
from stages.report_dataset.sheets import PICTURES
from stages.report_dataset.text import clipped, percent, visible
from tests.report.conftest import SIZES
from tests.report.datasets import Reported, add, prepare, report, scene

LINKS = ("href", "src", "srcset", "action", "data", "xlink:href", "poster")


class Page(HTMLParser):
    """Collects the elements of a page and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.elements if "id" in attrs]

    @property
    def links(self) -> Iterator[str]:
        for _, attrs in self.elements:
            yield from (value for name in LINKS if (value := attrs.get(name)))


def test_the_page_needs_no_other_file(lifelike: Reported) -> None:
    page = Page(lifelike.html)
    for link in page.links:
        assert link.startswith(("#", "data:image/webp;base64,")), link[:80]
        assert link[0] != "#" or link[1:] in page.ids
    assert len(set(page.ids)) == len(page.ids)
    without_pictures = re.sub('data:image/webp;base64,[^"]*', "", lifelike.html)
    assert not re.search(r"//|@import|<script|<link|url\((?!#m)", without_pictures)
    policy = next(attrs["content"] for _, attrs in page.elements if "http-equiv" in attrs)
    assert str(policy).startswith("default-src 'none'; img-src data:;")


def test_the_page_says_the_sums_and_names_what_was_left_out(lifelike: Reported) -> None:
    text = " ".join(Page(lifelike.html).text.split())
    numbers = read_json(lifelike.artifacts.metrics)
    assert (
        f"{numbers['files']} files = {numbers['train']} to train on + {numbers['validation']} to "
        f"validate on + {numbers['excluded']} excluded + {numbers['quarantined']} quarantined"
    ) in text
    for name in ("empty.jpg", "half.jpg", "alone.txt", "no caption.jpg", "blank.jpg", "icon.png"):
        assert name in text
    for note in read_json(lifelike.artifacts.ingest_report)["notes"]:
        assert note in text
    assert "1 of 56 captions are cut: flower/wide.jpg" in text
    assert "the flower <b>in grey</b> &amp; more" in text
    assert "lacks the trigger word “photograph”" in text


def test_every_picture_is_in_the_page_once_whatever_shows_it(lifelike: Reported) -> None:
    page = Page(lifelike.html)
    images = [attrs["href"] for tag, attrs in page.elements if tag == "image"]
    uses = [attrs["href"] for tag, attrs in page.elements if tag == "use"]
    assert len(images) == 55
    assert len(uses) > len(images)  # duplicates show some again


def test_the_same_dataset_gives_the_same_bytes(lifelike: Reported) -> None:
    artifacts = (lifelike.artifacts.page, lifelike.artifacts.metrics)
    before = [path.read_bytes() for path in artifacts]
    lifelike.again()
    assert [path.read_bytes() for path in artifacts] == before


def test_the_metrics_are_flat_numbers(lifelike: Reported) -> None:
    numbers = read_json(lifelike.artifacts.metrics)
    assert all(type(value) in (int, float) for value in numbers.values())
    assert numbers["truncated_captions_clip_l"] == 1
    assert numbers["truncated_captions_t5"] == 0
    assert numbers["exact_duplicates"] == 2
    assert numbers["near_duplicates"] == 2  # smaller and grey; equal ones are not told twice
    assert numbers["buckets"] == 11
    assert 0 < numbers["mean_cropped_fraction"] < 0.2


def test_copies_that_are_left_out_are_still_shown_beside_what_they_copy(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for i in range(12):
        add(root, f"train/{i}.png", scene(i, 600, 600), f"scene {i}")
    shutil.copy(root / "train/0.png", root / "train/again.png")
    shutil.copy(root / "train/0.txt", root / "train/again.txt")
    add(root, "held/0.jpg", scene(1, 600, 600), "held out", quality=80)
    add(root, "held/1.jpg", scene(70, 600, 600), "held out, too", quality=80)
    parts = [{"path": "train", "split": "train"}, {"path": "held", "split": "validation"}]
    rules = {"exact_duplicates": "exclude", "leakage": "exclude", "datasets": parts}
    made = report(root, tmp_path / "out", SIZES | rules)
    numbers = read_json(made.artifacts.metrics)
    assert (numbers["excluded"], numbers["exact_duplicates"], numbers["leaked"]) == (2, 1, 1)
    assert (numbers["train"], numbers["validation"]) == (12, 1)
    page = Page(made.html)
    uses = {attrs["href"] for tag, attrs in page.elements if tag == "use"}
    assert len(uses) == 15
    assert "the same as … (data.exact_duplicates is 'exclude')" in page.text
    assert "held/0.jpg" in page.text


HOSTILE = "<script>alert(1)</script> \"quoted\" & 'so' {{ 7 * 7 }} \x07\u202edne </style>"


def test_captions_and_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    root = tmp_path / "d"
    name = 'we"ird <i> & {{ 1 }}.png'
    add(root, name, scene(1, 600, 600), HOSTILE)
    add(root, "b.png", scene(2, 600, 600), "plain")
    made = report(root, tmp_path / "out", SIZES, max_unclean_fraction=1)
    page = Page(made.html)
    assert "script" not in {tag for tag, _ in page.elements}
    assert "<script>alert(1)</script> \"quoted\" & 'so' {{ 7 * 7 }}" in page.text
    assert "␇‹U+202E›dne" in page.text
    assert "\u202e" not in made.html
    assert "\x07" not in made.html
    assert name in page.text
    labels = [attrs.get("aria-label") for tag, attrs in page.elements if tag == "svg"]
    assert name in labels


def test_a_line_break_in_a_name_is_seen() -> None:
    assert visible("a\nb\x00.png") == "a␊b␀.png"
    assert visible("a\u200bb") == "a‹U+200B›b"
    assert clipped("a  long\n caption", 8) == "a long…"
    assert clipped("short", 8) == "short"


@pytest.mark.parametrize(
    ("fraction", "says"),
    [(0, "0 %"), (0.0002, "below 0.1 %"), (0.038, "3.8 %"), (0.03, "3 %"), (0.996, "100 %")],
)
def test_percents_are_short(fraction: float, says: str) -> None:
    assert percent(fraction) == says


def decoded(uri: str) -> Image.Image:
    prefix = "data:image/webp;base64,"
    assert uri.startswith(prefix)
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(prefix))))


def test_a_thumbnail_of_noise_is_small_and_keeps_the_shape() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    uri = shrink(Image.fromarray(noise))
    assert len(uri) < 1.5 * LARGEST
    small = decoded(uri)
    assert small.width * small.height <= PIXELS
    assert abs(small.width / small.height - 16 / 9) < 0.03


def test_a_tiny_picture_is_not_enlarged_in_the_file() -> None:
    assert decoded(shrink(Image.new("RGB", (32, 16), "red"))).size == (32, 16)
    assert decoded(shrink(Image.new("RGB", (20_000, 1), "red"))).size == (480, 1)


def test_a_turned_picture_is_upright_and_transparency_has_the_background(
    lifelike: Reported,
) -> None:
    root = Path(lifelike.params.train_path)
    photos = photograph(root, ["turned.jpg", "sticker.png", "turned.jpg"], "#00ff00", 10**7)
    assert (photos["turned.jpg"].width, photos["turned.jpg"].height) == (600, 800)
    corner = decoded(photos["sticker.png"].uri).convert("RGB").getpixel((3, 3))
    assert corner[1] > 230 > 30 > max(corner[0], corner[2])
    assert [photo.name for photo in photos.values()] == ["p0", "p1"]


def test_a_picture_that_has_changed_since_is_named(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for i in range(2):
        add(root, f"{i}.png", scene(i, 600, 600), f"scene {i}")
    made = prepare(root, tmp_path / "out", SIZES)
    shutil.copy(root / "0.png", tmp_path / "kept.png")
    scene(5, 500, 600).save(root / "0.png")
    with pytest.raises(ValueError, match=r"0.png is 500x600 pixels, but .* says 600x600: run"):
        made.again()
    (root / "0.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"0.png was a picture when it was listed, but now not a"):
        made.again()
    shutil.copy(tmp_path / "kept.png", root / "0.png")
    made.again()


def test_the_page_stays_below_6_megabytes_whatever_it_shows(tmp_path: Path) -> None:
    most = PICTURES + GROUPS * (OF_A_GROUP + 2 + 2)
    assert most * LARGEST * 4 / 3 < 5_500_000
    root = tmp_path / "d"
    rng = np.random.default_rng(0)
    for i in range(60):
        size = (260 + 40 * (i % 3), 300, 3)
        add(root, f"{i:03}.png", Image.fromarray(rng.integers(0, 256, size, np.uint8)), f"no {i}")
    sizes = SIZES | {"resolution": 256, "min_bucket_resolution": 128, "resolutions": [192]}
    made = report(root, tmp_path / "out", sizes)
    shown = made.html.count("<image ")
    assert made.artifacts.page.stat().st_size < 1.4 * LARGEST * shown + 200_000
    assert "shown: the " in made.html
