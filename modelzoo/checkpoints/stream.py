"""Tensors on disk as sources: names, shapes and dtypes at once, values one at a time."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}  # as safetensors spells them
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library


class TensorInfo(NamedTuple):
    """What is known of a tensor before it is loaded."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """The bytes that its values take."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorSource(Mapping[str, Tensor], ABC):
    """Tensors by name; as a mapping it loads the one asked for and keeps none.

    Args:
        where: The file or folder that errors name.
        layout: Whose names these are, such as "diffusers"; errors name it too.
        infos: Shape and dtype of every tensor, by name.
    """

    def __init__(self, where: str, layout: str, infos: Mapping[str, TensorInfo]) -> None:
        self.where = where
        self.layout = layout
        self.infos = infos

    @abstractmethod
    def load(self, name: str) -> Tensor:
        """Give one tensor, on the CPU; it may lie in a mapped file, so copy before writing to it.

        Raises:
            KeyError: There is no such tensor.
        """

    def __getitem__(self, name: str) -> Tensor:
        return self.load(name)

    def __contains__(self, name: object) -> bool:
        return name in self.infos  # the one that a Mapping comes with would load the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


class SafetensorsFile(TensorSource):
    """One safetensors file, mapped into memory: pages are read when a tensor is used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a pickle, not a safetensors file, or cut short.
    """

    def __init__(self, path: Path, layout: str = "diffusers") -> None:
        header = read_header(path)
        infos = {k: TensorInfo(tuple(v["shape"]), DTYPES[v["dtype"]]) for k, v in header.items()}
        super().__init__(str(path), layout, infos)
        self._mapped = safe_open(path, framework="pt")

    def load(self, name: str) -> Tensor:
        """Give one tensor, a view of the mapped file."""
        if name not in self.infos:
            raise KeyError(name)
        return self._mapped.get_tensor(name)


class MemorySource(TensorSource):
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str, layout: str) -> None:
        infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in tensors.items()}
        super().__init__(where, layout, infos)
        self._tensors = tensors

    def load(self, name: str) -> Tensor:
        """Give the tensor itself."""
        return self._tensors[name]


class Joined(TensorSource):
    """Several sources as one, such as the shards of a component.

    Raises:
        ValueError: Two of them hold a tensor of the same name.
    """

    def __init__(self, parts: Sequence[TensorSource], where: str, layout: str) -> None:
        self._homes: dict[str, TensorSource] = {}
        for part in parts:
            if twice := sorted(part.keys() & self._homes.keys()):
                raise ValueError(
                    f"{part.where} and {self._homes[twice[0]].where} both hold {twice[:10]!r}: "
                    "remove the file that does not belong to the model"
                )
            self._homes.update(dict.fromkeys(part, part))
        super().__init__(where, layout, {k: home.infos[k] for k, home in self._homes.items()})

    def load(self, name: str) -> Tensor:
        """Give one tensor of the source that has it."""
        return self._homes[name].load(name)


class Selection(TensorSource):
    """Some tensors of a source, under other names: `names` maps a new name to the source's."""

    def __init__(self, source: TensorSource, names: Mapping[str, str]) -> None:
        infos = {new: source.infos[old] for new, old in names.items()}
        super().__init__(source.where, source.layout, infos)
        self._source = source
        self._names = names

    def load(self, name: str) -> Tensor:
        """Give one tensor by its new name."""
        return self._source.load(self._names[name])


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Read dtype, shape and place of each tensor of a safetensors file; places are absolute bytes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a pickle, not a safetensors file, or cut short.
    """
    path = Path(path)
    refuse_pickle(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; give a .safetensors file")
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        start = stream.read(1)
        if start != b"{" or length > MAX_HEADER_BYTES:
            raise ValueError(
                f"{path} of {size} bytes is not a safetensors file, whatever its name says (a web "
                "page, or the pointer that git leaves without git-lfs?): download it again"
            )
        text = start + stream.read(length - 1)
    if len(text) < length:
        raise ValueError(_cut_short(path, size, 8 + length))
    header = json.loads(text)
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{path}: {name!r} has dtype {entry['dtype']!r}; known are {sorted(DTYPES)!r}: "
                "take a version of the weights that is not quantised"
            )
        entry["data_offsets"] = [8 + length + offset for offset in entry["data_offsets"]]
    end = max((entry["data_offsets"][1] for entry in header.values()), default=8 + length)
    if end != size:
        raise ValueError(_cut_short(path, size, end))
    return header


def refuse_pickle(path: Path) -> None:
    """Raise for a file whose name says that it is a pickle.

    Raises:
        ValueError: The name ends as those of pickles do.
    """
    if Path(path).suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, and loading one runs whatever code it holds; only safetensors "
            "are read: convert the file or download the safetensors version"
        )


def _cut_short(path: Path, size: int, needed: int) -> str:
    return f"{path} has {size} bytes, but its header speaks of {needed}: download it again"
