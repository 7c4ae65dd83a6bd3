"""Tables of names from which both directions between two layouts come, one tensor at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modelzoo.checkpoints.stream import TensorInfo, TensorSource

Infos = Mapping[str, TensorInfo]


class Surgery(NamedTuple):
    """What happens to values, both ways."""

    apart: Callable[[Tensor], Sequence[Tensor]]  # the published tensor to ours
    together: Callable[..., Tensor]  # ours, in the order of the row, to the published one


class Row(NamedTuple):
    """One published name pattern and ours; {} stands for an index, * for the rest of a name.

    In either direction the first row that fits a name counts, so that a later row with the same
    pattern on one side is read but never written.
    """

    published: str
    ours: tuple[str, ...]  # none: the tensor is dropped, because nothing reads it
    surgery: Surgery


class Layout(NamedTuple):
    """How one network is published: what it is called, how it is recognised, its table."""

    name: str  # for errors
    signs: tuple[str, ...]  # a published file has one of these tensors
    diffusers_sign: str  # a file with diffusers' names has this one
    rows: Callable[[Infos], list[Row]]  # for tensors with the names of either
    config: Callable[[Infos], dict[str, Any]]  # config.json from shapes, under diffusers' names


class Recipe(NamedTuple):
    """How a tensor is made from those of a source."""

    inputs: tuple[str, ...]
    make: Callable[..., Tensor]


def swap_halves(tensor: Tensor) -> Tensor:
    """Exchange (shift, scale) and (scale, shift), the halves of dimension 0."""
    return torch.cat(tensor.chunk(2)[::-1])


COPY = Surgery(lambda tensor: (tensor,), lambda tensor: tensor)
SWAP_HALVES = Surgery(lambda tensor: (swap_halves(tensor),), swap_halves)
TRANSPOSE = Surgery(lambda tensor: (tensor.T,), lambda tensor: tensor.T)
CONV_TO_LINEAR = Surgery(  # a convolution of one cell (D, C, 1, 1) is a linear layer (D, C)
    lambda tensor: (tensor.reshape(tensor.shape[:2]),), lambda tensor: tensor[:, :, None, None]
)
THIRDS = Surgery(lambda tensor: tensor.chunk(3), lambda *parts: torch.cat(parts))


def heads_and_rest(dim: int) -> Surgery:
    """Part query, key and value of `dim` rows each from all further rows of a fused layer."""
    return Surgery(
        lambda tensor: tensor.split([dim, dim, dim, len(tensor) - 3 * dim]),
        lambda *parts: torch.cat(parts),
    )


def rename(published: str, ours: str, surgery: Surgery = COPY) -> Row:
    """Make a row of one name each."""
    return Row(published, (ours,), surgery)


def split(published: str, ours: Sequence[str], surgery: Surgery = THIRDS) -> Row:
    """Make a row of a fused tensor and its parts in order, query, key and value if not told."""
    return Row(published, tuple(ours), surgery)


def drop(published: str) -> Row:
    """Make a row of a tensor that nothing reads."""
    return Row(published, (), COPY)


class Converted(TensorSource):
    """Tensors made of those of another source when they are asked for, and then forgotten."""

    def __init__(self, source: TensorSource, layout: str, recipes: Mapping[str, Recipe]) -> None:
        self._source = source
        self._recipes = recipes
        infos = {name: self._info(recipe) for name, recipe in recipes.items()}
        super().__init__(source.where, layout, infos)

    def load(self, name: str) -> Tensor:
        """Make one tensor; what is only cut or renamed stays a view of the mapped file."""
        recipe = self._recipes[name]
        return recipe.make(*(self._source.load(input_) for input_ in recipe.inputs))

    def _info(self, recipe: Recipe) -> TensorInfo:
        known = [self._source.infos[input_] for input_ in recipe.inputs]
        made = recipe.make(*(torch.empty(i.shape, dtype=i.dtype, device="meta") for i in known))
        return TensorInfo(tuple(made.shape), made.dtype)


def to_diffusers(source: TensorSource, layout: Layout) -> Converted:
    """Give a published network's tensors under diffusers' names.

    Raises:
        KeyError: A tensor whose shape the table depends on is missing.
        ValueError: A tensor is unknown to the layout, or two stand for the same one.
    """
    recipes: dict[str, Recipe] = {}
    patterns = [(_regex(row.published), row) for row in layout.rows(source.infos)]
    for name, row, indices in _matches(source, patterns, layout.name):
        for part, pattern in enumerate(row.ours):
            ours = _fill(pattern, indices)
            if ours in recipes:
                raise ValueError(
                    f"{source.where}: {name!r} and {recipes[ours].inputs[0]!r} both stand for "
                    f"{ours!r} of the {layout.name} layout: remove one"
                )
            recipes[ours] = Recipe((name,), partial(_part, row.surgery.apart, part))
    return Converted(source, layout.name, recipes)


def to_published(source: TensorSource, layout: Layout) -> Converted:
    """Give a network's tensors, which have diffusers' names, under the published names.

    Raises:
        KeyError: A tensor whose shape the table depends on is missing.
        ValueError: A tensor is unknown to the layout, or a fused tensor lacks a part.
    """
    found: dict[str, dict[str, str]] = {}  # of a published name: the pattern and name of each part
    makers: dict[str, Row] = {}
    rows = layout.rows(source.infos)
    patterns = [(_regex(ours), (row, ours)) for row in rows for ours in row.ours]
    for name, (row, ours), indices in _matches(source, patterns, layout.name):
        published = _fill(row.published, indices)
        makers[published] = row
        found.setdefault(published, {})[ours] = name
    if lacking := [name for name in found if len(found[name]) < len(makers[name].ours)]:
        raise ValueError(
            f"{source.where}: {lacking[:10]!r} of the {layout.name} layout cannot be made, because "
            f"of the first only {sorted(found[lacking[0]].values())!r} are there: give a complete "
            "network"
        )
    recipes = {
        name: Recipe(
            tuple(parts[ours] for ours in makers[name].ours), makers[name].surgery.together
        )
        for name, parts in found.items()
    }
    return Converted(source, layout.name, recipes)


def count(infos: Infos, *prefixes: str) -> int:
    """Count the members of a list of modules, such as of "double_blocks.", in either layout."""
    found = [re.match("(?:" + "|".join(map(re.escape, prefixes)) + r")(\d+)\.", k) for k in infos]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def info(infos: Infos, *names: str) -> TensorInfo:
    """Give what is known of a tensor, by the name that the layout at hand has for it."""
    return infos[next((name for name in names if name in infos), names[0])]


def _part(apart: Callable[[Tensor], Sequence[Tensor]], index: int, tensor: Tensor) -> Tensor:
    return apart(tensor)[index]


def _matches(source: TensorSource, patterns: list, layout: str) -> Iterator[tuple]:
    """Find the row of every name, and the indices in it."""
    unknown = []
    for name in source:
        found = ((p.fullmatch(name), row) for p, row in patterns)
        match, row = next(((m, row) for m, row in found if m), (None, None))
        if match is None:
            unknown.append(name)
        else:
            yield name, row, match.groups()
    if unknown:
        raise ValueError(
            f"{source.where}: the {layout} layout has no {unknown[:10]!r} ({len(unknown)} such "
            "tensors): remove them, or give a file of a network that is known"
        )


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)").replace(r"\*", "(.+)"))


def _fill(pattern: str, indices: Iterable[str]) -> str:
    values = iter(indices)
    return re.sub(r"\{\}|\*", lambda _: next(values), pattern)
