"""Make a folder of hostile files, each with the fate that ingest should find for it."""

from __future__ import annotations

import os
import random
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from tests.data import icc
from tests.data.icc import saved

KINDS = {  # suffix -> Pillow's name of a format that it can write
    "avif": "avif",
    "bmp": "bmp",
    "gif": "gif",
    "heic": "heif",
    "jpg": "jpeg",
    "png": "png",
    "tif": "tiff",
    "webp": "webp",
}
EMPTY = r"the file is empty"
TRUNCATED = r"the file is truncated"
UNKNOWN = r"not a picture in a known format"
BROKEN = r"cannot be decoded: .+|the file is truncated|not a picture in a known format"
TOO_LARGE = r"\d+x\d+ is more than data\.max_pixels allows \(\d+\)"
LEADS_OUT = r"a link out of the dataset.*"


@dataclass(frozen=True)
class Expected:
    """What should become of a file."""

    fate: str  # "kept" | "quarantined" | "excluded" | "either": decoded or not, but no crash
    reason: str = ""  # pattern of the whole reason
    notes: str = ""  # pattern of all notes


@dataclass(frozen=True)
class Hostile:
    """A file, its caption and its fate."""

    path: str
    data: bytes
    expected: Expected
    caption: bytes | None = None


def kept(path: str, data: bytes, notes: str = "", caption: bytes | None = None) -> Hostile:
    return Hostile(path, data, Expected("kept", notes=notes), caption)


def bad(path: str, data: bytes, reason: str, caption: bytes | None = None) -> Hostile:
    return Hostile(path, data, Expected("quarantined", reason), caption)


def photo(seed: int, width: int = 48, height: int = 36) -> Image.Image:
    """Give smooth noise, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1))


def files() -> list[Hostile]:
    """List all files that are bytes; see `write_links` for the others."""
    makers = (empty, cut, junk, too_large, damaged, unusual, named, captioned, fuzzed)
    return [hostile for make in makers for hostile in make()]


def empty() -> Iterator[Hostile]:
    for suffix in KINDS:
        yield bad(f"empty/{suffix}.{suffix}", b"", EMPTY)


def cut() -> Iterator[Hostile]:
    for number, (suffix, kind) in enumerate(KINDS.items()):
        data = saved(photo(100 + number), kind)
        for name, length in (("byte", 1), ("head", 12), ("header", 40), ("half", len(data) // 2)):
            yield bad(f"cut/{name}.{suffix}", data[:length], BROKEN)
    yield bad("cut/end.jpg", saved(photo(110), "jpeg")[:-200], TRUNCATED)
    yield bad("cut/end.png", saved(photo(111), "png")[:-40], BROKEN)


def junk() -> Iterator[Hostile]:
    dice = random.Random(0)
    for suffix in KINDS:
        yield bad(f"junk/random.{suffix}", dice.randbytes(500), UNKNOWN)
        yield bad(f"junk/zeros.{suffix}", bytes(500), UNKNOWN)
    others = {
        "text.png": b"This is not a picture.\n",
        "page.jpg": b"<!doctype html><title>404 Not Found</title>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "print.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "paper.png": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "archive.webp": b"PK\3\4" + bytes(60),
        "film.heic": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(60),
        "icon.bmp": saved(photo(120), "ico"),
        "old.tif": saved(photo(121), "pcx"),
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    }
    for name, data in others.items():
        yield bad(f"junk/{name}", data, UNKNOWN)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Put a PNG together from chunks."""
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width: int, height: int, depth: int = 8, kind: int = 2, interlaced: int = 0) -> bytes:
    return struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)


def patched(data: bytes, place: int, change: bytes) -> bytes:
    return data[:place] + change + data[place + len(change) :]


def too_large() -> Iterator[Hostile]:
    rows = zlib.compress(bytes(1000))
    for name, size in (("square", (50000, 50000)), ("line", (2**31 - 1, 1))):
        data = png((b"IHDR", header(*size)), (b"IDAT", rows), (b"IEND", b""))
        yield bad(f"large/{name}.png", data, TOO_LARGE)
    jpeg = saved(photo(130), "jpeg")
    frame = jpeg.index(b"\xff\xc0") + 5
    yield bad("large/j.jpg", patched(jpeg, frame, struct.pack(">HH", 65500, 65500)), TOO_LARGE)
    gif = patched(saved(photo(131), "gif"), 6, struct.pack("<HH", 65535, 65535))
    yield bad("large/g.gif", gif, TOO_LARGE)
    bmp = patched(saved(photo(132), "bmp"), 18, struct.pack("<ii", 100000, 100000))
    yield bad("large/b.bmp", bmp, TOO_LARGE)
    yield bad("large/w.webp", webp_of(16384, 16384), TOO_LARGE + "|" + BROKEN)
    tiff = saved(Image.new("L", (1, 1)), "tiff")
    for tag in (256, 257):  # width and length, each a short in the directory
        place = tiff.index(struct.pack("<HHI", tag, 4, 1)) + 8
        tiff = patched(tiff, place, struct.pack("<I", 1 << 20))
    yield bad("large/t.tif", tiff, TOO_LARGE)
    bomb = png((b"IHDR", header(48, 36)), (b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 26))))
    yield bad("large/text.png", bomb, BROKEN)


def webp_of(width: int, height: int) -> bytes:
    """Give the header of an extended WebP of any size, with nothing in it."""
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sizes
    return b"RIFF" + struct.pack("<I", len(body)) + body


def damaged() -> Iterator[Hostile]:
    whole = saved(photo(140), "png")
    yield bad("damaged/crc_of_header.png", patched(whole, 29, b"\0\0\0\0"), BROKEN)
    yield bad("damaged/pixels.png", patched(whole, 70, b"\0" * 90), BROKEN)
    yield bad("damaged/no_pixels.png", png((b"IHDR", header(9, 9)), (b"IEND", b"")), BROKEN)
    rows = (b"IDAT", zlib.compress(bytes(99)))
    yield bad("damaged/no_size.png", png((b"IHDR", header(0, 9)), rows), BROKEN + "|0x9 holds.*")
    yield bad("damaged/depth.png", png((b"IHDR", header(9, 9, 7)), rows), BROKEN)
    yield bad("damaged/no_header.png", png(rows, (b"IEND", b"")), BROKEN)
    yield bad("damaged/long_chunk.png", whole[:33] + b"\x7f\xff\xff\xffIDAT", BROKEN)
    jpeg = saved(photo(141), "jpeg")
    yield bad("damaged/no_tables.jpg", jpeg.replace(b"\xff\xdb", b"\xff\xec"), BROKEN)
    yield bad("damaged/no_frame.jpg", jpeg.replace(b"\xff\xc0", b"\xff\xec"), BROKEN)
    yield bad("damaged/only_marks.jpg", b"\xff\xd8\xff\xd9", BROKEN)
    tiff = saved(photo(142), "tiff")
    place = tiff.index(struct.pack("<HHI", 277, 3, 1)) + 8
    yield bad("damaged/samples.tif", patched(tiff, place, b"\3\x9e"), BROKEN)
    yield bad("damaged/no_directory.tif", patched(tiff, 4, b"\xff\xff\xff\x7f"), BROKEN)
    yield bad(
        "damaged/float.tif", saved(Image.new("F", (9, 9), 0.5), "tiff"), r"pixels are 32-bit.*"
    )
    deep = Image.fromarray(np.full((9, 9), 1 << 20, np.int32))
    yield bad("damaged/int.tif", saved(deep, "tiff"), r"pixels have more than 16 bits")
    yield bad("damaged/none.gif", b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b";", BROKEN)
    bmp = saved(photo(143), "bmp")
    yield bad("damaged/bits.bmp", patched(bmp, 28, b"\7\0"), BROKEN)
    yield bad("damaged/brand.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), BROKEN)
    yield bad("damaged/brand.avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(99), BROKEN)


def interlaced(image: Image.Image) -> bytes:
    """Give a grey PNG in the seven passes of Adam7, which Pillow does not write."""
    pixels = np.asarray(image)
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2))
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, down, left, right in (*passes, (1, 2, 0, 1))
        for row in pixels[top::down, left::right]
        if row.size
    )
    head = header(image.width, image.height, 8, 0, interlaced=1)
    return png((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def unusual() -> Iterator[Hostile]:
    """List pictures that are kept, most of them changed."""
    converted, inks = "colours converted to sRGB", "CMYK converted to RGB"
    yield kept("unusual/cmyk.jpg", saved(photo(150).convert("CMYK"), "jpeg"), inks)
    yield kept("unusual/ycck.jpg", icc.ycck(photo(151).convert("CMYK")), inks)
    ink = saved(photo(152).convert("CMYK"), "jpeg", icc_profile=icc.green_cyan())
    yield kept("unusual/press.jpg", ink, f"{inks}, {converted}")
    yield kept("unusual/wide.png", saved(photo(153), "png", icc_profile=icc.wide()), converted)
    for name, profile in (("junk", b"junk"), ("half", icc.wide()[:200]), ("grey", icc.grey())):
        data = saved(photo(154 + len(name) * 10), "jpeg", icc_profile=profile)
        yield kept(f"unusual/{name}_profile.jpg", data, "unusable colour profile ignored")
    for orientation in (3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(photo(160 + orientation), "jpeg", exif=exif)
        yield kept(f"unusual/turned_{orientation}.jpg", data, "turned by its EXIF orientation")
    for name, exif in (("text", b"Exif\0\0nothing"), ("loop", b"Exif\0\0II*\0\x08\0\0\0\xff\xff")):
        data = saved(photo(170 + len(name) * 3 + ord(name[0])), "jpeg", exif=exif)
        yield kept(f"unusual/{name}_exif.jpg", data, "(broken EXIF ignored)?")
    deep = (np.random.default_rng(1).integers(0, 65536, (36, 48))).astype(np.uint16)
    reduced = "16 bits reduced to 8"
    yield kept("unusual/grey16.png", saved(Image.fromarray(deep), "png"), reduced)
    yield kept("unusual/grey16.tif", saved(Image.fromarray(deep[::-1]), "tiff"), reduced)
    colours = deep[:, :16].astype(">u2").reshape(12, 16, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in colours)
    chunks = ((b"IHDR", header(16, 12, 16)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    yield kept("unusual/rgb16.png", png(*chunks), reduced)
    yield kept("unusual/interlaced.png", interlaced(photo(171).convert("L")))
    yield kept("unusual/progressive.jpg", saved(photo(172), "jpeg", progressive=True))
    yield kept("unusual/bits.png", saved(photo(173).convert("1"), "png"))
    yield kept("unusual/palette.png", saved(photo(174).convert("P"), "png"))
    above = photo(175).convert("P")
    over = "transparency over white"
    yield kept(
        "unusual/clear_colour.png", saved(above, "png", transparency=above.getpixel((0, 0))), over
    )
    yield kept("unusual/clear_palette.png", saved(above, "png", transparency=bytes(200)), over)
    clear = photo(176)
    clear.putalpha(photo(177).convert("L"))
    yield kept("unusual/alpha.png", saved(clear, "png"), over)
    yield kept("unusual/alpha.webp", saved(clear.transpose(1), "webp"), over)
    for suffix in ("gif", "webp", "png", "avif"):
        frames = [photo(180 + i + 3 * len(suffix) + ord(suffix[0])) for i in range(3)]
        data = saved(frames[0], KINDS[suffix], save_all=True, append_images=frames[1:])
        yield kept(f"unusual/moving.{suffix}", data, "first frame of an animation.*")
    data = saved(photo(330), "tiff", save_all=True, append_images=[photo(331)])
    yield kept("unusual/pages.tif", data, "one of several pictures")
    data = saved(photo(332), "mpo", save_all=True, append_images=[photo(333)])
    yield kept("unusual/preview.jpg", data)
    yield kept("unusual/really_png.jpg", saved(photo(334), "png"), r"PNG named \.jpg")
    yield kept("unusual/really_jpeg.png", saved(photo(335), "jpeg"), r"JPEG named \.png")
    yield kept("unusual/really_webp.bmp", saved(photo(336), "webp"), r"WEBP named \.bmp")
    for name, size in (("dot", (1, 1)), ("row", (10000, 1)), ("column", (1, 10000))):
        yield kept(f"unusual/{name}.png", saved(photo(337, *size), "png"))
    yield kept("unusual/tail.jpg", saved(photo(340), "jpeg") + b"<script>" * 99)


NAMES = (
    "two words",
    "  spaces around  ",
    "new\nline",
    "tab\tbed",
    "quo'te\"s",
    "back\\slash",
    "-rf",
    "%s %d {0}",
    "$(touch owned)",
    "*?[a]",
    "naïve café",
    "数字",
    "🦊",
    "‮desrever",
    "CON",
    "a" * 240,
    "many.dots.in.it",
    "é-composed",
    "é-decomposed",
)


def named() -> Iterator[Hostile]:
    for number, name in enumerate(NAMES):
        caption = f"picture {number}".encode()
        yield kept(f"names/{name}.png", saved(photo(400 + number), "png"), caption=caption)
    yield kept("names/UPPER.PNG", saved(photo(430), "png"))
    yield kept("names/folder.png/inside.png", saved(photo(431), "png"))
    yield kept("names/" + "deep/" * 30 + "down.png", saved(photo(432), "png"))
    hidden = Expected("excluded", "hidden file")
    yield Hostile("names/.hidden.png", saved(photo(433), "png"), hidden)
    for name in ("Thumbs.db", "notes.md", "film.mp4"):
        expected = Expected("excluded", "neither a picture nor a caption")
        yield Hostile(f"names/{name}", b"something", expected)


def captioned() -> Iterator[Hostile]:
    not_utf8 = r"its caption file captions/\w+\.txt is not UTF-8"
    for number, (name, caption) in enumerate(
        {
            "latin": "café".encode("latin-1"),
            "wide": "wide".encode("utf-16"),
            "cut": b"caf\xc3",
        }.items()
    ):
        yield bad(f"captions/{name}.png", saved(photo(500 + number), "png"), not_utf8, caption)
    fine = {
        "mark": b"\xef\xbb\xbfwith a byte order mark",
        "nuls": b"nul\0nul",
        "blank": b" \r\n",
        "empty": b"",
        "markup": b"<b>&amp;</b>",
        "long": b"word " * 200_000,
        "same": b"the same words",
        "again": b"the same words",
    }
    for number, (name, caption) in enumerate(fine.items()):
        yield kept(f"captions/{name}.png", saved(photo(510 + number), "png"), caption=caption)
    expected = Expected("excluded", "caption without a picture")
    yield Hostile("captions/lonely.txt", b"nobody's", expected)


def fuzzed() -> Iterator[Hostile]:
    dice = random.Random(7)
    for number, (suffix, kind) in enumerate(sorted(KINDS.items()) * 5):
        data = bytearray(saved(photo(600 + number), kind))
        for _ in range(dice.randint(1, 12)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        yield Hostile(f"fuzz/{number:02}.{suffix}", bytes(data), Expected("either", BROKEN + "|.+"))


def write(root: Path) -> dict[str, Expected]:
    """Make the folder `root`; return the fate of each of its files by its path in the ledger."""
    expected = {}
    for hostile in files():
        path = root / hostile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hostile.data)
        if hostile.caption is not None:
            Path(os.path.splitext(path)[0] + ".txt").write_bytes(hostile.caption)
        expected[hostile.path] = hostile.expected
    return expected | write_links(root)


def write_links(root: Path) -> dict[str, Expected]:
    """Add links, a pipe, a name that is no text and a file that may not be read."""
    outside = root.parent / "outside"
    outside.mkdir()
    photo(700).save(outside / "secret.png")
    photo(701).save(root / "links_target.png")
    folder = root / "links"
    folder.mkdir()
    (folder / "out.png").symlink_to(outside / "secret.png")
    (folder / "up.png").symlink_to("../../outside/secret.png")
    (folder / "nothing.png").symlink_to("nowhere.png")
    (folder / "inside.png").symlink_to("../links_target.png")
    (folder / "folder").symlink_to(outside)
    (folder / "circle").symlink_to("..")
    os.mkfifo(folder / "pipe.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png")).write_bytes(saved(photo(702), "png"))
    locked = folder / "locked.png"
    photo(703).save(locked)
    locked.chmod(0)
    nothing = Expected("quarantined", "a link to nothing")
    return {
        "links_target.png": Expected("kept"),
        "links/inside.png": Expected("kept"),
        "links/out.png": Expected("quarantined", LEADS_OUT),
        "links/up.png": Expected("quarantined", LEADS_OUT),
        "links/nothing.png": nothing,
        "links/folder": Expected("excluded", LEADS_OUT),
        "links/circle": Expected("excluded", "a link to a folder of the dataset.*"),
        "links/pipe.png": Expected("quarantined", "neither a file nor a folder"),
        "links/\\xff\\xfe.png": Expected("quarantined", "its name is not UTF-8: rename it"),
        "links/locked.png": Expected("kept")
        if os.geteuid() == 0
        else Expected("quarantined", "cannot be read: Permission denied"),
    }


def differs(expected: Expected, fate: str, reason: str, notes: str) -> bool:
    """Say whether a file ended otherwise than expected."""
    if expected.fate == "either":
        if fate == "kept":
            return reason != ""
        return fate != "quarantined" or re.fullmatch(expected.reason, reason) is None
    return (
        fate != expected.fate
        or re.fullmatch(expected.reason, reason) is None
        or re.fullmatch(expected.notes, notes) is None
    )
