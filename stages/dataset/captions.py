"""The captions of a caption file: one, or one a line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from stages.dataset.tree import Folder

LINE_BREAK = re.compile(r"\r\n|\r|\n")
ReadText = Callable[[Path], str]


def read_text(path: Path) -> str:
    """Read a caption file, which is UTF-8 with or without a byte order mark.

    Raises:
        UnicodeDecodeError: It is in another encoding.
        OSError: It may not be read.
    """
    return path.read_bytes().decode("utf-8-sig")


def captions_of(text: str, per_line: bool) -> tuple[str, ...]:
    """Give the captions in the text of a caption file; a blank one gives one blank caption."""
    if not per_line:
        return (text,)
    return tuple(line for line in LINE_BREAK.split(text) if line.strip()) or (text,)


def read_captions(
    folder: Folder, path: str, per_line: bool, read_text: ReadText
) -> tuple[tuple[str, ...], str]:
    """Read the captions of a caption file, and why there are none."""
    if problem := folder.files[path]:
        return (), f"its caption file {path}: {problem}"
    try:
        return captions_of(read_text(Path(os.path.join(folder.root, path))), per_line), ""
    except UnicodeDecodeError:
        return (), f"its caption file {path} is not UTF-8"
    except OSError as error:
        return (), f"its caption file {path} cannot be read: {error.strerror}"
