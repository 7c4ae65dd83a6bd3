"""Pictures as RGB: opened upright in sRGB, named by their content, cut to a bucket."""

from __future__ import annotations

import hashlib
import io
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import (  # importing a plugin is what lets Pillow open its format
    AvifImagePlugin,  # noqa: F401
    ExifTags,
    Image,
    ImageCms,
    ImageColor,
    ImageOps,
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

# Part of row keys: what the pixels of a bucket depend on, besides the geometry.
CONVENTION = "first frame,exif,icc to srgb,alpha over background,8 bit,lanczos,mirror/2"
MAX_PIXELS = 178956970  # default of data.max_pixels
FORMATS = {  # suffix -> what Pillow calls the format
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
SUFFIXES = tuple(FORMATS)
JPEG_FORMATS = ("JPEG", "MPO")  # MPO: a telephone's JPEG with a preview
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MODE_OF_SPACE = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of an ICC profile
DECODER_ERRORS = (  # what Pillow's decoders raise on bytes that are no picture
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)


class UnreadableImageError(ValueError):
    """The bytes of a file are no picture; the message is the reason, without the path."""


@dataclass(frozen=True)
class Opened:
    """A picture as it is trained on, and what had to be changed for that."""

    image: Image.Image  # 8-bit RGB
    notes: tuple[str, ...]  # short fixed phrases, in the order of the changes


def open_rgb(
    data: bytes, background: str = "white", max_pixels: int = MAX_PIXELS, suffix: str = ""
) -> Opened:
    """Open a picture as 8-bit sRGB, upright, without transparency; the first of several frames.

    Args:
        data: The bytes of the file.
        background: Colour under what is transparent, as Pillow names colours.
        max_pixels: Larger pictures are refused before they are decoded.
        suffix: Of the file's name; one of another format is noted.

    Raises:
        UnreadableImageError: The bytes are empty, truncated, broken, too large or no picture.
        ValueError: There is no such colour.
    """
    below = background_colour(background)
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        with _QUIET, _identify(data) as image:
            _refuse_size(image.size, max_pixels)
            notes = _unusual(image, suffix.lower())
            upright = _load_upright(image, notes)
            return Opened(_to_rgb(upright, background, below, notes), tuple(notes))
    except UnreadableImageError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableImageError("not a picture in a known format") from None
    except DECODER_ERRORS as error:
        raise UnreadableImageError(_reason(error)) from None


@lru_cache
def background_colour(name: str) -> tuple[int, int, int]:
    """Give the red, green and blue (0 to 255) of `data.background`.

    Raises:
        ValueError: There is no such colour.
    """
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise ValueError(
            f"data.background: {name!r} is no colour: give a name such as 'white', or '#rrggbb'"
        ) from None
    return red, green, blue


class _Quiet:
    """Lift Pillow's own limit of size, and keep its warnings back, while a thread opens a picture.

    Both are global to the process: the first thread that enters sets them, the last restores them.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.nowhere = logging.NullHandler()

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside > 1:
                return
            self.caught = warnings.catch_warnings()
            self.caught.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            logging.getLogger("PIL").addHandler(self.nowhere)  # else errors go to stderr
            self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None

    def __exit__(self, *_: object) -> Literal[False]:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                Image.MAX_IMAGE_PIXELS = self.limit
                logging.getLogger("PIL").removeHandler(self.nowhere)
                self.caught.__exit__(None, None, None)
        return False


_QUIET = _Quiet()


def _identify(data: bytes) -> Image.Image:
    """Read the header of a picture in one of FORMATS, and of no other that Pillow knows."""
    formats = sorted({*FORMATS.values()} - {"HEIF"})
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS and _opens_heif():
        formats.append("HEIF")
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except Image.UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS and not _opens_heif():
            raise UnreadableImageError(
                "HEIC needs the package pillow-heif: pip install pillow-heif"
            ) from None
        raise


@lru_cache
def _opens_heif() -> bool:
    """Let Pillow open HEIC, which it only does with an optional package."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _refuse_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise UnreadableImageError(
            f"{width}x{height} is more than data.max_pixels allows ({max_pixels})"
        )
    if not width * height:
        raise UnreadableImageError(f"{width}x{height} holds no pixels")


def _unusual(image: Image.Image, suffix: str) -> list[str]:
    """Note what the header tells."""
    notes = []
    is_jpeg = image.format in JPEG_FORMATS
    found = "JPEG" if is_jpeg else str(image.format)
    if found != FORMATS.get(suffix, found):
        notes.append(f"{found} named {suffix}")
    if getattr(image, "is_animated", False) and not is_jpeg:
        pages = found in ("TIFF", "HEIF")
        notes.append("one of several pictures" if pages else "first frame of an animation")
    if ";16" in str(getattr(image, "tile", "")):  # of Pillow's raw modes
        notes.append("16 bits reduced to 8")
    return notes


def _load_upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """Decode a picture and turn it as its EXIF says."""
    turned_by_pillow = image.format == "TIFF"  # when it is loaded, after which nothing tells
    orientation = _orientation(image, notes) if turned_by_pillow else 1
    image.load()
    if not turned_by_pillow:
        orientation = _orientation(image, notes)
    if orientation not in UPRIGHT:
        return image
    notes.append("turned by its EXIF orientation")
    if turned_by_pillow:
        return image
    upright = image.transpose(UPRIGHT[orientation])
    upright.info = image.info
    return upright


def _orientation(image: Image.Image, notes: list[str]) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_ERRORS:
        notes.append("broken EXIF ignored")
        return 1
    return found if isinstance(found, int) else 1


def _to_rgb(
    image: Image.Image, background: str, below: tuple[int, int, int], notes: list[str]
) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode == "F":
        raise UnreadableImageError("pixels are 32-bit floats of unknown range")
    if image.mode in SIXTEEN_BIT_MODES:
        image = _eight_bits(image)
    alpha = None
    if image.has_transparency_data:
        above = image.convert("RGBA")
        alpha = above.getchannel("A")
        image = image.getchannel("L") if image.mode == "LA" else above.convert("RGB")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    rgb = _in_srgb(image, profile, notes)
    if alpha is None or alpha.getextrema()[0] == 255:
        return rgb
    notes.append(f"transparency over {background}")
    rgb.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, (*below, 255)), rgb).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits, with the one value that a PNG may call transparent as alpha."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImageError("pixels have more than 16 bits")
    grey = Image.fromarray(np.round(values / 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray((values != transparent).astype(np.uint8) * np.uint8(255)))
    return grey


def _in_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Convert L, RGB or CMYK to RGB, through its ICC profile where it has a usable one."""
    if image.mode == "CMYK":
        notes.append("CMYK converted to RGB")
    if profile:
        try:
            mode, transform = _transform(profile)
        except (ImageCms.PyCMSError, *DECODER_ERRORS):
            mode, transform = "", None
        if mode == image.mode or (mode, image.mode) == ("RGB", "L"):
            if transform is not None:
                notes.append("colours converted to sRGB")
                converted = image if image.mode == mode else image.convert(mode)
                return transform.apply(converted)
        else:
            notes.append("unusable colour profile ignored")
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=64)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Give the mode that an ICC profile is for, and what converts it to sRGB.

    The second is None where the profile is sRGB: it moves no colour by more than rounding.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = MODE_OF_SPACE[source.profile.xcolor_space]
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "CMYK":
        return mode, transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, len(levels), 3)
    probe = Image.fromarray(colours if mode == "RGB" else levels[None])
    moved = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return mode, transform if np.abs(moved).max() > 1 else None


def _reason(error: BaseException) -> str:
    """Say why a decoder failed, in one line that is the same on every machine."""
    message = " ".join(str(error).split())[:200] or type(error).__name__
    if "truncated" in message.lower():
        return "the file is truncated"
    return f"cannot be decoded: {message}"


def content_hash(image: Image.Image) -> str:
    """Return the sha256 (hex) of an RGB picture's size and pixels, however it is stored."""
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def crop_to_bucket(image: Image.Image, geometry: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Resize (Lanczos), cut and mirror a picture as a row of BUCKETS says.

    Returns:
        Pixels (H, W, 3), uint8, of the bucket's height and width.

    Raises:
        ValueError: The picture no longer has the size that the row was made for.
    """
    original = (geometry["original_width"], geometry["original_height"])
    if image.size != original:
        raise ValueError(
            f"{geometry['path']} is {image.size} pixels, but was {original} when its bucket was "
            f"chosen: run `dvc repro`"
        )
    resized = (geometry["resize_width"], geometry["resize_height"])
    if image.size != resized:
        image = image.resize(resized, Image.Resampling.LANCZOS)
    left, top = geometry["crop_left"], geometry["crop_top"]
    cut = image.crop((left, top, left + geometry["width"], top + geometry["height"]))
    return np.array(ImageOps.mirror(cut) if geometry["flipped"] else cut, dtype=np.uint8)
