"""Caption files: how their texts are read, and which extension they have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Set
from pathlib import Path

from stages.dataset.form import Form
from stages.dataset.tree import Folder
from stages.pixels import SUFFIXES

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
        return captions_of(read_text(Path(f"{folder.root}/{path}")), per_line), ""
    except UnicodeDecodeError:
        return (), f"its caption file {path} is not UTF-8"
    except OSError as error:
        return (), f"its caption file {path} cannot be read: {error.strerror}"


def refuse_picture_extension(form: Form) -> None:
    """Refuse pictures as caption files."""
    if form.caption_extension.lower() in SUFFIXES:
        raise ValueError(
            f"data.caption_extension: {form.caption_extension!r} is an extension of pictures: "
            f"give that of the caption files, such as '.txt'"
        )


def refuse_other_extension(
    where: str, stems: Set[str], captioned: Set[str], others: Iterable[tuple[str, str]], form: Form
) -> None:
    """Recognise a mistyped extension: another one would give more pictures a caption.

    Args:
        where: The folder or shard, for messages.
        stems: The pictures' paths without extension.
        captioned: The caption files', and those of others that they have nothing to do with.
        others: Path and extension of the files that are neither pictures nor captions.
        form: Has the extension.

    Raises:
        ValueError: There is one.
    """
    without = len(stems - captioned)
    rivals = Counter(extension.lower() for stem, extension in others if stem in stems)
    rival, count = max(rivals.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if count > len(stems) - without:
        raise ValueError(
            f"{where}: {without} images have no {form.caption_extension} file; {count} have "
            f"{rival}: set data.caption_extension to {rival!r}"
        )
