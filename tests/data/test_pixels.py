from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import pixels

RAMP = np.arange(64 * 48 * 3, dtype=np.int64).reshape(48, 64, 3).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 2), (10, 20, 30, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    opened = pixels.open_rgb(saved(tmp_path / "a.png", image))
    assert [opened.getpixel((x, 0)) for x in range(3)] == [(10, 20, 30), (127,) * 3, (255,) * 3]


def test_a_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 200, 0, 0])
    image.putpixel((1, 0), 1)
    opened = pixels.open_rgb(saved(tmp_path / "a.png", image, transparency=0))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (200, 0, 0)]


def test_sixteen_bits_become_eight_by_scale_not_by_clipping(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    for name in ("a.png", "a.tif"):
        opened = pixels.open_rgb(saved(tmp_path / name, image))
        assert np.asarray(opened)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_common_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = ".jpg" if mode in ("CMYK", "YCbCr") else ".png"
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(RAMP).convert(mode))
    opened = pixels.open_rgb(path)
    assert (opened.mode, opened.size) == ("RGB", (64, 48))


def test_a_turned_picture_is_opened_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    path = saved(tmp_path / "a.png", Image.fromarray(RAMP), exif=exif)
    assert np.array_equal(np.asarray(pixels.open_rgb(path)), np.rot90(RAMP, -1))


def test_content_is_the_pixels_and_the_size_not_the_file(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP)
    files = [
        saved(tmp_path / "a.png", image),
        saved(tmp_path / "b.png", image, compress_level=0),
        saved(tmp_path / "c.bmp", image),
        saved(tmp_path / "d.webp", image, lossless=True),
    ]
    assert len({pixels.content_hash(pixels.open_rgb(path)) for path in files}) == 1
    other = Image.frombytes("RGB", (48, 64), image.tobytes())
    assert pixels.content_hash(other) != pixels.content_hash(image)


def _truncated_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "jpeg")
    return file.getvalue()[:-400]


def _damaged_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "png")
    data = bytearray(file.getvalue())
    data[60:120] = b"\0" * 60
    return bytes(data)


def _animated() -> bytes:
    file = io.BytesIO()
    first = Image.fromarray(RAMP)
    first.save(file, "webp", save_all=True, append_images=[first.rotate(90)], lossless=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"no picture at all", "not a picture in a known format"),
        (_truncated_jpeg(), "cannot be decoded"),
        (_damaged_png(), "cannot be decoded"),
        (_animated(), "it has 2 frames, not one"),
    ],
)
def test_bytes_that_are_no_still_picture_give_a_reason(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(pixels.UnreadableImageError, match=reason) as caught:
        pixels.open_rgb(tmp_path / "a.png")
    assert str(tmp_path) not in str(caught.value)  # reasons are the same on every machine


GEOMETRY = {
    "path": "a.png",
    "resize_width": 43,
    "resize_height": 32,
    "crop_left": 5,
    "crop_top": 0,
    "width": 32,
    "height": 32,
    "original_width": 64,
    "original_height": 48,
}


def test_a_crop_is_the_middle_of_the_resized_picture() -> None:
    image = Image.fromarray(RAMP)
    cut = pixels.crop_to_bucket(image, GEOMETRY)
    resized = np.asarray(image.resize((43, 32), Image.Resampling.LANCZOS))
    assert cut.dtype == np.uint8
    assert np.array_equal(cut, resized[:, 5:37])


def test_a_picture_of_the_bucket_size_keeps_every_pixel() -> None:
    sizes = {"resize_width": 64, "resize_height": 48, "crop_left": 0, "width": 64, "height": 48}
    cut = pixels.crop_to_bucket(Image.fromarray(RAMP), {**GEOMETRY, **sizes})
    assert np.array_equal(cut, RAMP)


def test_a_picture_that_changed_its_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.png is \(48, 64\) pixels, but was \(64, 48\)"):
        pixels.crop_to_bucket(Image.new("RGB", (48, 64)), GEOMETRY)
