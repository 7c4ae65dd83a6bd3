"""What DreamBooth's prior adds to the data: pictures of the class, and captions of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.artifacts import read_json, write_json

FOLDER = Path("data/class_images")
INDEX = "index.json"  # in the folder, beside the pictures
DATASET = "class images"  # what tables and reports call them


@dataclass(frozen=True)
class ClassPicture:
    """A picture that the untrained base has made."""

    file: str  # in the folder
    prompt: str  # it was made of


@dataclass(frozen=True)
class Prior:
    """What DreamBooth is told of the subject and its class.

    Attributes:
        kind: "images", "prediction", "none"; "" where another method trains.
        instance_prompt: the caption of the subject's pictures that have none.
        class_prompt: the caption of the class.
        pictures: of the class, in their order.
    """

    kind: str = ""
    instance_prompt: str = ""
    class_prompt: str = ""
    pictures: Sequence[ClassPicture] = ()


def write_index(folder: Path, prior: Prior) -> None:
    """Write the index into the folder of the pictures."""
    write_json(folder / INDEX, asdict(prior))


def read_index(folder: Path) -> Prior:
    """Read the index; a folder that is not there has no prior.

    Raises:
        ValueError: It is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        return Prior()
    try:
        values = read_json(path)
        pictures = [ClassPicture(**each) for each in values.pop("pictures")]
        return Prior(**values, pictures=pictures)
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: run `dvc repro`, which makes it anew") from None


def rare_words(instance_prompt: str, class_prompt: str) -> list[str]:
    """List the words that make the subject of the class: those of the first prompt alone."""
    known = {word.casefold() for word in words(class_prompt)}
    return [word for word in words(instance_prompt) if word.casefold() not in known]


def words(text: str) -> list[str]:
    """Cut a prompt into words, without the marks between them."""
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text)


def class_caption(caption: str, instance_prompt: str, class_prompt: str) -> str:
    """Say of the class what a caption says of the subject.

    The instance prompt in it becomes the class prompt; without it, the caption loses its rare
    words ("sks dog on a beach": "dog on a beach").
    """
    if instance_prompt in caption:
        return caption.replace(instance_prompt, class_prompt)
    rare = rare_words(instance_prompt, class_prompt)
    for word in rare:
        caption = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)\s*", "", caption, flags=re.IGNORECASE)
    return caption.strip()


def told_of_class(prior: Prior, captions: Iterable[str]) -> set[str]:
    """List what the base is told of the class where its predictions are the prior."""
    if prior.kind != "prediction":
        return set()
    prompts = prior.instance_prompt, prior.class_prompt
    return {class_caption(caption, *prompts) for caption in captions}
