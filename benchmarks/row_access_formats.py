"""The ways in which trainers cache latents and text, each written and read as its trainer does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file

from stages.rows import manifest as manifest_module
from stages.rows.keys import key_of, parts_text, table_name
from stages.rows.manifest import ManifestRows
from stages.rows.table import RowTable

LATENTS = (32, 32, 32)  # 128 KiB in float32
TEXT = (64, 1024)  # 256 KiB
PER_COMMIT = 256  # rows

Values: TypeAlias = npt.NDArray[np.float32]
Read: TypeAlias = Callable[[Sequence[int]], tuple[Any, Any]]  # latents and text of a batch
OPTIONAL = ("vision", "text", "multimodal")  # datasets of mosaicml-streaming that want torchvision


@dataclass(frozen=True)
class Format:
    """One way to cache rows.

    Attributes:
        name: of the format, and of who uses it.
        write: write all latents (N, ...) and text (N, ...) below a folder.
        open: return what reads a batch from that folder.
    """

    name: str
    write: Callable[[Path, Values, Values], None]
    open: Callable[[Path, int], Read]


def write_lance(folder: Path, latents: Values, text: Values) -> None:
    """Add rows in commits, as an encoder does."""
    for kind, values in (("latents", latents), ("text", text)):
        name = table_name(kind, {"values": values.shape[1:]})
        table = RowTable.open(str(folder), name, {"values": values.shape[1:]})
        for start in range(0, len(values), PER_COMMIT):
            some = values[start : start + PER_COMMIT]
            parts = [parts_text(kind=kind, place=start + place) for place in range(len(some))]
            table.add([key_of(each) for each in parts], {"values": some}, parts)


def open_lance(folder: Path, num_rows: int) -> Read:
    """Read through manifests, none of which is kept in memory."""
    manifest_module.PRELOAD_BYTES = 0
    rows = {}
    for kind, shape in (("latents", LATENTS), ("text", TEXT)):
        keys = [key_of(parts_text(kind=kind, place=place)) for place in range(num_rows)]
        table = [table_name(kind, {"values": shape})] * num_rows
        columns = {"name": list(range(num_rows)), "table": table, "key": keys}
        rows[kind] = ManifestRows(pa.table(columns), "name", str(folder))
        rows[kind].take([0])  # finds the files
    latents, text = rows["latents"], rows["text"]
    return lambda batch: (latents.take(batch)["values"], text.take(batch)["values"])


def write_npz(folder: Path, latents: Values, text: Values) -> None:
    """Write two files a sample."""
    for place, (latent, context) in enumerate(zip(latents, text, strict=True)):
        np.savez(folder / f"{place}.npz", latents=latent)
        np.savez(folder / f"{place}_te.npz", context=context)


def open_npz(folder: Path, num_rows: int) -> Read:
    """Read the files of a batch and stack them."""

    def load(name: str, array: str) -> Values:
        with np.load(folder / name) as file:
            return np.asarray(file[array])

    return lambda batch: (
        np.stack([load(f"{place}.npz", "latents") for place in batch]),
        np.stack([load(f"{place}_te.npz", "context") for place in batch]),
    )


def write_pt(folder: Path, latents: Values, text: Values) -> None:
    """Write two files a sample."""
    for place, (latent, context) in enumerate(zip(latents, text, strict=True)):
        torch.save(torch.from_numpy(latent).clone(), folder / f"{place}.pt")
        torch.save({"context": torch.from_numpy(context).clone()}, folder / f"{place}_te.pt")


def open_pt(folder: Path, num_rows: int) -> Read:
    """Read the files of a batch and stack them."""

    def load(name: str) -> Any:
        return torch.load(folder / name, weights_only=True)

    return lambda batch: (
        torch.stack([load(f"{place}.pt") for place in batch]),
        torch.stack([load(f"{place}_te.pt")["context"] for place in batch]),
    )


def write_safetensors(folder: Path, latents: Values, text: Values) -> None:
    """Write two files a sample."""
    for place, (latent, context) in enumerate(zip(latents, text, strict=True)):
        save_file({"latent": torch.from_numpy(latent)}, folder / f"{place}.safetensors")
        save_file({"context": torch.from_numpy(context)}, folder / f"{place}_te.safetensors")


def open_safetensors(folder: Path, num_rows: int) -> Read:
    """Read the files of a batch and stack them."""
    return lambda batch: (
        torch.stack([load_file(folder / f"{each}.safetensors")["latent"] for each in batch]),
        torch.stack([load_file(folder / f"{each}_te.safetensors")["context"] for each in batch]),
    )


def streaming() -> ModuleType:
    """Import mosaicml-streaming without the datasets that it brings along.

    Raises:
        ImportError: it, or what it needs, is not installed.
    """
    for name in OPTIONAL:
        sys.modules.setdefault(f"streaming.{name}", ModuleType(f"streaming.{name}"))
    import streaming

    return streaming  # type: ignore[no-any-return]


def write_mds(folder: Path, latents: Values, text: Values) -> None:
    """Write shards of 64 MB, the library's own size."""
    columns = {
        name: f"ndarray:float32:{','.join(map(str, shape))}"
        for name, shape in (("latents", LATENTS), ("text", TEXT))
    }
    with streaming().MDSWriter(out=str(folder / "shards"), columns=columns) as writer:
        for latent, context in zip(latents, text, strict=True):
            writer.write({"latents": latent, "text": context})


def open_mds(folder: Path, num_rows: int) -> Read:
    """Read the samples of a batch and stack them."""
    dataset = streaming().LocalDataset(local=str(folder / "shards"))

    def read(batch: Sequence[int]) -> tuple[Values, Values]:
        samples = [dataset[place] for place in batch]
        return (
            np.stack([sample["latents"] for sample in samples]),
            np.stack([sample["text"] for sample in samples]),
        )

    return read


def write_map(folder: Path, latents: Values, text: Values) -> None:
    """Write one file each."""
    np.save(folder / "latents.npy", latents)
    np.save(folder / "text.npy", text)


def open_map(folder: Path, num_rows: int) -> Read:
    """Gather a batch from the maps."""
    latents = np.load(folder / "latents.npy", mmap_mode="r")
    text = np.load(folder / "text.npy", mmap_mode="r")
    return lambda batch: (latents[list(batch)], text[list(batch)])


LANCE = Format("Lance (diffbase)", write_lance, open_lance)
OTHERS = (
    Format("npz a sample (kohya)", write_npz, open_npz),
    Format("torch .pt a sample (SimpleTuner)", write_pt, open_pt),
    Format("safetensors a sample (ai-toolkit)", write_safetensors, open_safetensors),
    Format("MDS (mosaicml-streaming)", write_mds, open_mds),
    Format("one memory map", write_map, open_map),
)
