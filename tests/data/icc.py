"""ICC profiles small enough to read, each far from sRGB or broken in one way."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
D50 = (0.9642, 1.0, 0.8249)  # white of the connection space, XYZ
# XYZ under D50 of Display P3's red, green and blue
P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))


def profile(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Put a version 2 profile together (ICC.1:2001-04)."""
    tags = {b"desc": b"desc" + struct.pack(">II", 0, 2) + b"x\0" + bytes(79), **tags}
    tags = {name: body + bytes(-len(body) % 4) for name, body in tags.items()}
    place = 128 + 4 + 12 * len(tags)
    table = struct.pack(">I", len(tags))
    for name, body in tags.items():
        table += name + struct.pack(">II", place, len(body))
        place += len(body)
    head = struct.pack(">I4sI", place, b"lcms", 0x02400000) + kind + space + connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(*D50)
    return head + bytes(128 - len(head)) + table + b"".join(tags.values())


def _xyz(*values: float) -> bytes:
    return struct.pack(">3i", *(round(value * 65536) for value in values))


def wide(gamma: float = 2.2) -> bytes:
    """Give Display P3's primaries with a plain gamma: its reds are redder than sRGB has."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))
    tags = {b"wtpt": b"XYZ " + bytes(4) + _xyz(*D50)}
    for name, column in zip(b"rgb", P3, strict=True):
        tags[bytes([name]) + b"XYZ"] = b"XYZ " + bytes(4) + _xyz(*column)
        tags[bytes([name]) + b"TRC"] = curve
    return profile(b"RGB ", b"XYZ ", b"mntr", tags)


def grey(gamma: float = 1.0) -> bytes:
    """Give grey with a gamma of its own."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))
    tags = {b"wtpt": b"XYZ " + bytes(4) + _xyz(*D50), b"kTRC": curve}
    return profile(b"GRAY", b"XYZ ", b"mntr", tags)


def green_cyan() -> bytes:
    """Give a press whose cyan ink is green: a CMYK profile that nobody can mistake for another."""
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    light = 1 - np.clip(inks @ [0.5, 0.3, 0.1, 1.0], 0, 1)  # of white
    lab = np.stack([light * 255, 128 - 80 * inks[:, 0], np.full(16, 128)], axis=-1)
    identity = bytes(range(256))
    head = b"mft1" + bytes(4) + struct.pack(">4B", 4, 3, 2, 0)
    head += struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = head + identity * 4 + np.round(lab).astype(np.uint8).tobytes() + identity * 3
    return profile(b"CMYK", b"Lab ", b"prtr", {b"A2B0": table})


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Give the bytes of a picture's file."""
    if kind == "heif":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    file = io.BytesIO()
    image.copy().save(file, kind, **options)  # saving leaves traces on a picture
    return file.getvalue()


def ycck(inks: Image.Image) -> bytes:
    """Give a CMYK picture as Adobe's YCCK JPEG, which Pillow reads but does not write."""
    cyan, magenta, yellow, black = inks.split()
    planes = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    inverted = [plane.point(lambda value: 255 - value) for plane in planes]  # as the writer does
    data = bytearray(saved(Image.merge("CMYK", (*inverted, black)), "jpeg", quality=100))
    data[data.index(b"Adobe") + 11] = 2  # the transform: YCCK
    return bytes(data)
