"""Pictures as RGB: opened upright, named by their content, cut to a bucket."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

CONVENTION = "exif,white,lanczos/1"  # part of row keys: what the pixels of a bucket depend on
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
DECODER_ERRORS = (  # what Pillow's decoders raise on bytes that are no picture
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImageError(ValueError):
    """The bytes of a file are no still picture; the message is the reason, without the path."""


def open_rgb(path: Path) -> Image.Image:
    """Open a picture as 8-bit RGB, upright by its EXIF orientation, transparency over white.

    Raises:
        UnreadableImageError: The file is empty, truncated, broken, animated or no picture.
        OSError: The file is not there or may not be read.
    """
    data = path.read_bytes()
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # MPO: a telephone's JPEG with a preview
                raise UnreadableImageError(f"it has {frames} frames, not one")
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnreadableImageError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableImageError("not a picture in a known format") from None
    except DECODER_ERRORS as error:
        raise UnreadableImageError(
            f"cannot be decoded: {str(error) or type(error).__name__}"
        ) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImageError("pixels are 32-bit floats of unknown range")
    if image.mode in SIXTEEN_BIT_MODES:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImageError("pixels have more than 16 bits")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return image.convert("RGB")


def content_hash(image: Image.Image) -> str:
    """Return the sha256 (hex) of an RGB picture's size and pixels, however it is stored."""
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def crop_to_bucket(image: Image.Image, geometry: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Resize (Lanczos) and cut a picture as a row of BUCKETS says.

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
    box = (left, top, left + geometry["width"], top + geometry["height"])
    return np.array(image.crop(box), dtype=np.uint8)
