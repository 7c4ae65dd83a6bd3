"""The cases of benchmarks/encoding.py: a toy autoencoder, JPEGs, and a store filled beforehand."""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from modelzoo.autoencoders import Autoencoder, init_autoencoder
from stages import pixels
from stages.artifacts import extra_metadata, read_table, write_table
from stages.encode_images import stage
from stages.rows.keys import key_of
from stages.rows.table import RowTable
from stages.tables import place, to_table

TOY = {  # some 0.2 s a megapixel on two cores
    "_class_name": "AutoencoderKL",
    "latent_channels": 4,
    "block_out_channels": [4, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
DIGEST = "toy"
SIDE = 1024  # pixels of the pictures whose throughput counts
SMALL_SIDE = 256  # pixels of those in the store beforehand, so that 10,000 rows fit a disk
NUM_ADDED = 10
CHUNK = 500  # rows a commit of the prefilled store


def machine() -> str:
    """Describe the machine and what runs on it."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    model = next((line.split(": ")[1] for line in lines if "model name" in line), "")
    return (
        f"{platform.machine()} {model}, {os.cpu_count()} cores, Python"
        f" {platform.python_version()}, torch {torch.__version__}, Pillow {PIL.__version__}"
    )


def overlap(folder: Path, asked: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Encode JPEGs as the stage does, and the same pictures from memory, in turns."""
    toy = _toy(asked)
    root = folder / "overlap"
    pictures = [_picture(root, seed, SIDE) for seed in range(asked.pictures)]
    tensors = _tensors(root, pictures[: 2 * asked.batch_size])
    _encode_tensors(toy, tensors[: asked.batch_size], asked.batch_size)  # warms up
    alone, beside, whole = [], [], []
    for repeat in range(asked.repeats):
        alone.append(_seconds_a_picture(toy, tensors, asked, []))
        beside.append(_seconds_a_picture(toy, tensors, asked, _paths(root, pictures)))
        seconds = _encode(toy, root, pictures, asked, store=f"store{repeat}")
        whole.append(seconds / len(pictures))
    ratio = statistics.median(all_ / own for all_, own in zip(whole, alone, strict=True))
    least = statistics.median(all_ / own for all_, own in zip(beside, alone, strict=True))
    size = np.mean([path.stat().st_size for path in _paths(root, pictures)])
    yield f"JPEGs of {SIDE}x{SIDE}, mean size", f"{size / 1e3:.0f} kB"
    yield "the VAE on tensors in memory, a picture", f"{statistics.median(alone) * 1e3:.1f} ms"
    yield "encode_images, a picture", f"{statistics.median(whole) * 1e3:.1f} ms"
    yield "ratio (goal 1.15)", f"{ratio:.3f}"
    yield "ratio of the VAE alone while Pillow opens the pictures beside it", f"{least:.3f}"


def _seconds_a_picture(
    toy: Autoencoder, tensors: torch.Tensor, asked: argparse.Namespace, opened: Sequence[Path]
) -> float:
    """Encode from memory while another process opens as many of `opened`, none where it is empty.

    What that costs on this machine is the least that any overlap of the two can cost.
    """
    spawn = multiprocessing.get_context("spawn")
    due, started = spawn.Semaphore(0), spawn.Event()
    opener = spawn.Process(target=_open, args=(opened, due, started), daemon=True)
    opener.start()
    started.wait()
    rounds = max(1, asked.pictures // len(tensors))
    start = time.perf_counter()
    for _ in range(rounds):
        for batch in tensors.split(asked.batch_size):
            for _ in batch:
                due.release()
            _encode_tensors(toy, batch, asked.batch_size)
    seconds = time.perf_counter() - start
    opener.terminate()
    return seconds / (rounds * len(tensors))


def _open(paths: Sequence[Path], due: Any, started: Any) -> None:
    """Open a picture whenever one is due, with Pillow alone."""
    started.set()
    for path in paths:
        due.acquire()
        np.asarray(Image.open(path).convert("RGB"))


def _paths(root: Path, pictures: Sequence[dict[str, Any]]) -> list[Path]:
    return [root / "pictures" / each["path"] for each in pictures]


def addition(folder: Path, asked: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Add ten pictures to a store that has the others, and encode the ten from memory."""
    toy = _toy(asked)
    root = folder / "addition"
    first = [_picture(root, 0, SMALL_SIDE)]
    _encode(toy, root, first, asked, store="store")
    known = first + [
        first[0] | {"content": digest, "sample_id": digest[:20], "path": f"{number}.jpg"}
        for number in range(asked.rows - 1)
        for digest in [hashlib.sha256(str(number).encode()).hexdigest()]
    ]
    start = time.perf_counter()
    _fill(toy, root, known, asked)
    filling = time.perf_counter() - start
    alone, whole = [], []
    for repeat in range(asked.repeats):
        seeds = range(1 + repeat * NUM_ADDED, 1 + (repeat + 1) * NUM_ADDED)
        added = [_picture(root, seed, SMALL_SIDE) for seed in seeds]
        tensors = _tensors(root, added)
        start = time.perf_counter()
        _encode_tensors(toy, tensors, asked.batch_size)
        alone.append(time.perf_counter() - start)
        whole.append(_encode(toy, root, known + added, asked, store="store"))
    over = statistics.median(all_ - own for all_, own in zip(whole, alone, strict=True))
    yield f"the VAE on {NUM_ADDED} pictures in memory", f"{statistics.median(alone):.2f} s"
    yield f"encode_images, {NUM_ADDED} more than {asked.rows}", f"{statistics.median(whole):.2f} s"
    yield "seconds over (goal 2)", f"{over:.2f} s"
    yield f"(filling the store with {asked.rows} rows)", f"{filling:.1f} s"


def _toy(asked: argparse.Namespace) -> Autoencoder:
    torch.set_num_threads(asked.threads)
    return init_autoencoder(TOY, 0).eval().requires_grad_(False)


def _picture(root: Path, seed: int, side: int) -> dict[str, Any]:
    """Draw a JPEG with as much detail as a photograph; return its row of BUCKETS."""
    rng = np.random.default_rng(seed)
    values = np.zeros((side, side, 3), np.float32)
    for cells in (4, 16, 64, 256):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        values += np.asarray(image, np.float32) / 4
    path = root / "pictures" / f"picture{seed}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path, quality=90)
    content = pixels.content_hash(pixels.open_rgb(path.read_bytes()).image)
    size = {"width": side, "height": side, "original_width": side, "original_height": side}
    return {
        **{"sample_id": content[:20], "role": "target", "index": 0, "resolution": side},
        **{"variant": 0, "content": content, "path": path.name, "split": "train", "prior": False},
        **{"repeats": 1, "weight": 1.0, "bucket": f"{side}x{side}", "flipped": False},
        **{"resize_width": side, "resize_height": side, "crop_left": 0, "crop_top": 0, **size},
    }


def _tensors(root: Path, pictures: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Give pictures as the autoencoder takes them, (B, 3, H, W) in [-1, 1]."""
    images = [
        np.array(pixels.open_rgb((root / "pictures" / each["path"]).read_bytes()).image)
        for each in pictures
    ]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _encode_tensors(toy: Autoencoder, tensors: torch.Tensor, batch_size: int) -> None:
    with torch.inference_mode():
        for batch in tensors.split(batch_size):
            toy.encode_rows(batch.contiguous())


def _encode(
    toy: Autoencoder,
    root: Path,
    pictures: Sequence[dict[str, Any]],
    asked: argparse.Namespace,
    store: str,
) -> float:
    """Do what the stage does once its imports are done; return the seconds."""
    artifacts = _artifacts(root)
    rows = sorted(pictures, key=place)
    write_table(artifacts.buckets, to_table(rows, "buckets"), "buckets")
    write_table(artifacts.conditions, to_table([], "buckets"), "buckets")
    start = time.perf_counter()
    stage.encode(toy, DIGEST, _params(root, asked, store), artifacts, fill_only=False)
    return time.perf_counter() - start


def _artifacts(root: Path) -> stage.Artifacts:
    names = ("buckets.parquet", "vae.json", "latents.parquet", "conditions.parquet")
    return stage.Artifacts(*(root / name for name in names))


def _params(root: Path, asked: argparse.Namespace, store: str) -> stage.Params:
    return stage.Params(
        family="sdxl",
        dtype="float32",
        train_path=str(root / "pictures"),
        background="white",
        batch_size=asked.batch_size,
        threads=asked.threads,
        max_pixels=2 * SIDE**2,
        store=str(root / store),
        workers="local",
        ray_address=None,
        decode_workers=asked.decode_workers,
    )


def _fill(toy: Autoencoder, root: Path, pictures: Sequence[Any], asked: argparse.Namespace) -> None:
    """Give the store a row of noise for each picture, under the key that the stage will ask for."""
    params = _params(root, asked, "store")
    parts = dict(stage.picture_encoder(toy, DIGEST, params).parts)
    manifest = read_table(_artifacts(root).latents, "latents")
    parts["generation"] = extra_metadata(manifest)["generation"]
    table = RowTable.open(str(params.store), manifest["table"][0].as_py())
    rng = np.random.default_rng(0)
    for start in range(0, len(pictures), CHUNK):
        chunk = pictures[start : start + CHUNK]
        texts = [stage.described(parts, "latents", picture) for picture in chunk]
        values = {
            name: rng.standard_normal((len(chunk), *column.shape), np.float32)
            for name, column in table.columns.items()
        }
        table.add([key_of(text) for text in texts], values, texts)
