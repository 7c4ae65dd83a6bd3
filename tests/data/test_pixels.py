from __future__ import annotations

import io
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from stages import pixels
from stages.pixels import UnreadableImageError, open_rgb
from tests.data import icc
from tests.data.icc import saved

RAMP = np.arange(64 * 48 * 3, dtype=np.int64).reshape(48, 64, 3).astype(np.uint8)
PICTURE = Image.fromarray(RAMP)
CLAY = Image.new("RGB", (8, 8), (200, 50, 50))


def pixel(data: bytes, x: int = 0, **options: object) -> tuple[int, ...]:
    return open_rgb(data, **options).image.getpixel((x, 0))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("png", {}),
        ("bmp", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("webp", {"lossless": True}),
        ("png", {"icc_profile": icc.SRGB}),
    ],
)
def test_an_ordinary_picture_keeps_every_pixel_and_has_no_notes(
    kind: str, options: dict[str, object]
) -> None:
    opened = open_rgb(saved(PICTURE, kind, **options), suffix=f".{kind}")
    assert opened.notes == ()
    assert np.array_equal(np.asarray(opened.image), RAMP)


@pytest.mark.parametrize("kind", ["jpeg", "avif", "gif"])
def test_lossy_formats_give_what_pillow_decodes(kind: str) -> None:
    data = saved(PICTURE, kind)
    plain = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(np.asarray(open_rgb(data).image), np.asarray(plain))


def test_transparency_is_laid_over_the_background() -> None:
    image = Image.new("RGBA", (4, 2), (10, 20, 30, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    opened = open_rgb(saved(image, "png"))
    assert [opened.image.getpixel((x, 0)) for x in range(3)] == [
        (10, 20, 30),
        (127,) * 3,
        (255,) * 3,
    ]
    assert opened.notes == ("transparency over white",)
    assert pixel(saved(image, "png"), 2, background="#0000ff") == (0, 0, 255)


def test_opaque_alpha_changes_nothing_and_is_not_noted() -> None:
    image = PICTURE.copy()
    image.putalpha(255)
    opened = open_rgb(saved(image, "png"))
    assert opened.notes == ()
    assert np.array_equal(np.asarray(opened.image), RAMP)


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_a_transparent_palette_colour_is_the_background(transparency: object) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 200, 0, 0])
    image.putpixel((1, 0), 1)
    data = saved(image, "png", transparency=transparency)
    assert [pixel(data, x, background="blue") for x in range(2)] == [(0, 0, 255), (200, 0, 0)]


def test_a_background_that_is_no_colour_is_the_users_error_not_the_pictures() -> None:
    with pytest.raises(ValueError, match=r"data\.background: 'blu' is no colour") as caught:
        open_rgb(saved(PICTURE, "png"), background="blu")
    assert not isinstance(caught.value, UnreadableImageError)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_become_eight_by_scale_not_by_clipping(kind: str) -> None:
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    opened = open_rgb(saved(image, kind))
    assert np.asarray(opened.image)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert opened.notes == ("16 bits reduced to 8",)


def test_the_transparent_value_of_sixteen_bit_grey_is_the_background() -> None:
    image = Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.uint16))
    data = saved(image, "png", transparency=32896)
    assert [pixel(data, x, background="red") for x in range(3)] == [
        (0, 0, 0),
        (255, 0, 0),
        (255, 255, 255),
    ]


def test_floats_have_no_known_range() -> None:
    data = saved(Image.new("F", (4, 4), 0.5), "tiff")
    with pytest.raises(UnreadableImageError, match="floats of unknown range"):
        open_rgb(data)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_common_mode_becomes_rgb(mode: str) -> None:
    kind = {"CMYK": "jpeg", "YCbCr": "jpeg", "PA": "tiff"}.get(mode, "png")
    image = PICTURE.convert("P").convert("PA") if mode == "PA" else PICTURE.convert(mode)
    opened = open_rgb(saved(image, kind))
    assert (opened.image.mode, opened.image.size) == ("RGB", (64, 48))


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_opened_upright(kind: str, orientation: int) -> None:
    upright = Image.new("L", (16, 32), 255)  # dark in the upper left quarter
    upright.paste(0, (0, 0, 8, 16))
    undone = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    turned = upright.transpose(pixels.UPRIGHT[undone]) if undone > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_rgb(saved(turned.convert("RGB"), kind, exif=exif))
    difference = np.asarray(opened.image.convert("L")).astype(int) - np.asarray(upright)
    assert opened.image.size == (16, 32)
    assert np.abs(difference).mean() < 6
    assert opened.notes == (("turned by its EXIF orientation",) if orientation > 1 else ())


def test_broken_exif_is_noted_and_ignored() -> None:
    opened = open_rgb(saved(PICTURE, "png", exif=b"Exif\0\0no TIFF at all"))
    assert opened.notes == ("broken EXIF ignored",)
    assert np.array_equal(np.asarray(opened.image), RAMP)


def test_colours_of_another_profile_become_srgb() -> None:
    opened = open_rgb(saved(CLAY, "png", icc_profile=icc.wide()))
    assert opened.notes == ("colours converted to sRGB",)
    red, green, blue = opened.image.getpixel((0, 0))
    assert red > 210  # P3's red is redder
    assert green < 30
    assert blue < 50


def test_alpha_is_laid_over_the_background_after_the_profile() -> None:
    image = CLAY.copy()
    image.putalpha(0)
    opened = open_rgb(saved(image, "png", icc_profile=icc.wide()), background="#c83232")
    assert opened.image.getpixel((0, 0)) == (200, 50, 50)
    assert opened.notes == ("colours converted to sRGB", "transparency over #c83232")


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_profile_lightens_linear_grey(mode: str) -> None:
    image = Image.new("L", (8, 8), 100).convert(mode)
    assert pixel(saved(image, "png", icc_profile=icc.grey())) == (168, 168, 168)


@pytest.mark.parametrize(
    "profile", [b"junk", icc.wide()[:200], icc.grey(), icc.green_cyan()], ids=len
)
def test_a_profile_that_cannot_be_the_pictures_is_noted_and_ignored(profile: bytes) -> None:
    opened = open_rgb(saved(CLAY, "png", icc_profile=profile))
    assert opened.notes == ("unusable colour profile ignored",)
    assert opened.image.getpixel((0, 0)) == (200, 50, 50)


@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_inks_are_not_inverted(kind: str) -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    opened = open_rgb(saved(cyan, kind))
    assert np.allclose(opened.image.getpixel((0, 0)), (0, 255, 255), atol=3)
    assert opened.notes == ("CMYK converted to RGB",)


def test_ycck_is_the_same_picture_as_its_cmyk() -> None:
    inks = Image.new("CMYK", (16, 16), (230, 40, 90, 20))
    opened = open_rgb(icc.ycck(inks))
    assert np.allclose(opened.image.getpixel((0, 0)), pixel(saved(inks, "tiff")), atol=4)


@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_cmyk_goes_through_its_own_profile(kind: str) -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    opened = open_rgb(saved(cyan, kind, icc_profile=icc.green_cyan()))
    red, green, blue = opened.image.getpixel((0, 0))
    assert red < green > blue + 20
    assert opened.notes == ("CMYK converted to RGB", "colours converted to sRGB")


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "avif"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    data = saved(CLAY, kind, save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    opened = open_rgb(data)
    assert opened.notes == ("first frame of an animation",)
    assert np.allclose(opened.image.getpixel((0, 0)), (200, 50, 50), atol=8)


def test_a_file_of_several_pages_is_its_first() -> None:
    data = saved(CLAY, "tiff", save_all=True, append_images=[PICTURE], compression="tiff_lzw")
    assert open_rgb(data).notes == ("one of several pictures",)
    assert pixel(data) == (200, 50, 50)


def test_a_telephones_picture_with_a_preview_is_an_ordinary_one() -> None:
    data = saved(PICTURE, "mpo", save_all=True, append_images=[CLAY])
    opened = open_rgb(data, suffix=".jpg")
    assert opened.notes == ()
    assert opened.image.size == (64, 48)


@pytest.mark.parametrize(
    ("kind", "suffix", "note"),
    [
        ("png", ".jpg", ("PNG named .jpg",)),
        ("jpeg", ".PNG", ("JPEG named .png",)),
        ("jpeg", ".jpeg", ()),
        ("png", "", ()),
        ("webp", ".gif", ("WEBP named .gif",)),
    ],
)
def test_a_name_of_another_format_is_noted(kind: str, suffix: str, note: tuple[str, ...]) -> None:
    assert open_rgb(saved(CLAY, kind), suffix=suffix).notes == note


def test_heic_is_read_where_its_package_is_installed() -> None:
    pytest.importorskip("pillow_heif")
    opened = open_rgb(saved(CLAY, "heif"), suffix=".heic")
    assert opened.notes == ()
    assert np.allclose(opened.image.getpixel((0, 0)), (200, 50, 50), atol=8)


def test_heic_without_its_package_is_a_reason_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    pixels._opens_heif.cache_clear()
    heic = (24).to_bytes(4, "big") + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(200)
    with pytest.raises(UnreadableImageError, match="pip install pillow-heif"):
        open_rgb(heic)
    pixels._opens_heif.cache_clear()


def test_content_is_the_pixels_and_the_size_not_the_file() -> None:
    files = [
        saved(PICTURE, "png"),
        saved(PICTURE, "png", compress_level=0),
        saved(PICTURE, "bmp"),
        saved(PICTURE, "webp", lossless=True),
    ]
    assert len({pixels.content_hash(open_rgb(data).image) for data in files}) == 1
    other = Image.frombytes("RGB", (48, 64), PICTURE.tobytes())
    assert pixels.content_hash(other) != pixels.content_hash(PICTURE)


def _damaged_png() -> bytes:
    data = bytearray(saved(PICTURE, "png"))
    data[60:120] = b"\0" * 60
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "^the file is empty$"),
        (b"no picture at all", "^not a picture in a known format$"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "^not a picture"),
        (saved(PICTURE, "jpeg")[:-400], "^the file is truncated$"),
        (_damaged_png(), "^cannot be decoded: broken data stream"),
    ],
)
def test_bytes_that_are_no_picture_give_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        open_rgb(data)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    bomb = bytearray(saved(Image.new("L", (8, 8)), "png"))
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    header = bytes(bomb[12:29])
    bomb[29:33] = zlib.crc32(header).to_bytes(4, "big")
    with pytest.raises(UnreadableImageError, match=r"^60000x60000 is more than data\.max_pixels"):
        open_rgb(bytes(bomb))
    data = saved(PICTURE, "png")
    assert open_rgb(data, max_pixels=64 * 48).notes == ()
    with pytest.raises(UnreadableImageError, match=r"allows \(3071\)"):
        open_rgb(data, max_pixels=64 * 48 - 1)


def test_no_warning_escapes_from_threads_and_pillow_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # which PICTURE exceeds
    noisy = saved(PICTURE, "png")
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(4) as threads:
        warnings.simplefilter("always")
        opened = list(threads.map(open_rgb, [noisy] * 50))
    assert not caught
    assert len(opened) == 50
    assert Image.MAX_IMAGE_PIXELS == 2000
    assert warnings.filters == filters


GEOMETRY = {
    "path": "a.png",
    "resize_width": 43,
    "resize_height": 32,
    "crop_left": 5,
    "crop_top": 0,
    "width": 32,
    "height": 32,
    "flipped": False,
    "original_width": 64,
    "original_height": 48,
}


def test_a_crop_is_the_middle_of_the_resized_picture() -> None:
    cut = pixels.crop_to_bucket(PICTURE, GEOMETRY)
    resized = np.asarray(PICTURE.resize((43, 32), Image.Resampling.LANCZOS))
    assert cut.dtype == np.uint8
    assert np.array_equal(cut, resized[:, 5:37])


def test_a_flipped_crop_is_the_mirror_image_of_the_crop() -> None:
    cut = pixels.crop_to_bucket(PICTURE, GEOMETRY)
    flipped = pixels.crop_to_bucket(PICTURE, {**GEOMETRY, "flipped": True})
    assert np.array_equal(flipped, cut[:, ::-1])


def test_a_picture_of_the_bucket_size_keeps_every_pixel() -> None:
    sizes = {"resize_width": 64, "resize_height": 48, "crop_left": 0, "width": 64, "height": 48}
    assert np.array_equal(pixels.crop_to_bucket(PICTURE, {**GEOMETRY, **sizes}), RAMP)


def test_a_picture_that_changed_its_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.png is \(48, 64\) pixels, but was \(64, 48\)"):
        pixels.crop_to_bucket(Image.new("RGB", (48, 64)), GEOMETRY)
