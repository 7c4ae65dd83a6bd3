"""Tell whether a generated picture has the edges that it was asked to follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.artifacts import read_json
from stages.conditions.making import canny
from stages.judges.folder import open_picture
from stages.judges.verdict import Picture, Question, Reading
from stages.params.methods import Controlnet

FOLLOWED = 0.8  # agreement from which a picture counts as one that followed
MAX_OF_OTHERS = 0.7  # mean agreement of different pictures, above which it would mean nothing
EXAMPLES = "evaluate.judge_path: the edges judge reads prompts.json and the pictures it names"

Edges = NDArray[np.bool_]  # (H, W)


@dataclass(frozen=True)
class EdgeReading(Reading):
    """A reading that knows how far the edges agree."""

    agreement: float = 0.0


@dataclass(frozen=True)
class EdgesExamination:
    """Edges of held-out real pictures, each asked for without a caption.

    What a caption says of the picture moves the edges too (Zhang et al. 2023, section 3.4: control
    must do without); so that all that agrees comes of control, none is given.
    """

    questions: list[Question]
    edges: list[Edges]  # asked for, one a question
    agreement_of_others: float  # mean over pairs of different real pictures of one size

    def read(self, pictures: Sequence[Picture]) -> list[Reading]:
        """Find the edges of each picture and compare them with those asked for."""
        readings: list[Reading] = []
        for index, (picture, asked) in enumerate(zip(pictures, self.edges, strict=True)):
            found = agreement(edges_of(picture), asked)
            read = "followed" if found >= FOLLOWED else f"{found:.2f} agree"
            box = (0, 0, picture.shape[1], picture.shape[0])
            readings.append(EdgeReading(index, 0, box, "followed", read, "edges", found))
        return readings

    def metrics(self, readings: Sequence[Reading]) -> dict[str, float]:
        """Return the mean agreement, and that of pictures that have nothing to do with each other.

        The second is what a picture of such content reaches by chance.
        """
        found = [reading.agreement for reading in readings if isinstance(reading, EdgeReading)]
        return {
            "edge_agreement": float(np.mean(found)) if found else 0.0,
            "edges_judged": len(found),
            "edge_agreement_of_others": self.agreement_of_others,
        }

    def summary(self, metrics: dict[str, float]) -> str:
        """Say how far the edges agree, beside what others do by chance."""
        return (
            f"edge agreement {metrics['edge_agreement']:.3f} over {metrics['edges_judged']:.0f} "
            f"pictures (others' {self.agreement_of_others:.3f})"
        )


class EdgesJudge:
    """Asks for the edges of the real pictures that `prompts.json` names."""

    def prepare(self, folder: Path, num_prompts: int | None) -> EdgesExamination:
        """Find the edges of real pictures, and how far those of different ones agree.

        Raises:
            FileNotFoundError: The folder holds no prompts.json, or lacks a picture.
            ValueError: A picture has no edges or another size, or different pictures agree so
                far that agreement means nothing.
        """
        entries = _entries(folder, num_prompts)
        questions, edges = [], []
        for entry in entries:
            name, size = entry["image"], (int(entry["width"]), int(entry["height"]))
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is not there; {EXAMPLES}")
            picture = open_picture(folder / name)
            if picture.shape[1::-1] != size:
                raise ValueError(
                    f"{folder / name} is {picture.shape[1]}x{picture.shape[0]} pixels, but its "
                    f"prompt says {size[0]}x{size[1]}: correct prompts.json"
                )
            found = edges_of(picture)
            if not found.any():
                raise ValueError(f"{folder / name} has no edges to follow: take its prompt out")
            questions.append(Question("", *size, condition_of=name))
            edges.append(found)
        others = _agreement_of_others(edges)
        if others > MAX_OF_OTHERS:
            raise ValueError(
                f"{folder}: the edges of different pictures agree to {others:.2f} already, at most "
                f"{MAX_OF_OTHERS} is needed to tell what follows: give pictures that differ"
            )
        return EdgesExamination(questions, edges, others)


def edges_of(picture: Picture) -> Edges:
    """Find edges with the usual settings of `training.controlnet`."""
    usual = Controlnet()
    drawn = canny(Image.fromarray(picture), usual.canny_low, usual.canny_high, usual.canny_sigma)
    return np.asarray(drawn) > 0


def agreement(found: Edges, asked: Edges) -> float:
    """Return the F1 of edge pixels, where one beside the asked one counts as well.

    Precision is the share of found edges with an asked one within a pixel, recall the reverse
    (the boundary measure of Martin, Fowlkes and Malik 2004, with a tolerance of one pixel).
    """
    if not found.any() or not asked.any():
        return float(not found.any() and not asked.any())
    precision = float((found & _widened(asked)).sum() / found.sum())
    recall = float((asked & _widened(found)).sum() / asked.sum())
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def _widened(edges: Edges) -> Edges:
    """Add the eight neighbours of each edge pixel."""
    padded = np.pad(edges, 1)
    height, width = edges.shape
    shifts = [(down, across) for down in range(3) for across in range(3)]
    widened: Edges = np.any(
        [padded[down : down + height, across : across + width] for down, across in shifts], axis=0
    )
    return widened


def _agreement_of_others(edges: Sequence[Edges]) -> float:
    """Compare each picture with the next of its size; 0 where there are no two."""
    of_size: dict[tuple[int, ...], list[Edges]] = defaultdict(list)
    for each in edges:
        of_size[each.shape].append(each)
    pairs = [
        agreement(one, other)
        for group in of_size.values()
        if len(group) > 1
        for one, other in zip(group, [*group[1:], group[0]], strict=True)
    ]
    return float(np.mean(pairs)) if pairs else 0.0


def _entries(folder: Path, count: int | None) -> list[dict[str, Any]]:
    path = folder / "prompts.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; {EXAMPLES}")
    entries: list[dict[str, Any]] = read_json(path)
    if count is None or count >= len(entries):
        return entries
    return [entries[index * len(entries) // count] for index in range(count)]
