"""Measure ingest and bucket over many pictures: the first time, and again when nothing changed.

Run `python benchmarks/dataset.py` on a machine that does nothing else; it prints a table. The first
time is compared with Pillow decoding and hashing the same files on as many threads; the second with
a stat of every file. Each is a fresh process, timed after its imports; repetitions are interleaved.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

OLD = 1_700_000_000  # when the files were written, seconds since 1970
COARSE = 24  # side of the noise that a picture is enlarged from
STAT_GOAL = 60e-6  # seconds a file
FIRST_GOAL = 1.2


def make_pictures(folder: Path, count: int, side: int) -> None:
    """Draw `count` JPEGs of three aspect ratios with a caption file each, none like another."""

    def draw(number: int) -> None:
        random = np.random.default_rng(number)
        noise = random.integers(0, 256, (COARSE, COARSE, 3), dtype=np.uint8)
        size = ((side, side), (side, side * 3 // 4), (side * 3 // 4, side))[number % 3]
        picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        path = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)
        beside = path.with_suffix(".txt")
        beside.write_text(f"picture number {number}, abstract, colourful")
        for written in (path, beside):
            os.utime(written, (OLD, OLD))  # what was written just now is read again

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(draw, range(count)))


def decode_and_hash(dataset: Path) -> float:
    """Time Pillow alone: every picture decoded to RGB and its pixels hashed, on all cores."""

    def look_at(path: Path) -> str:
        with Image.open(path) as image:
            return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()

    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(look_at, sorted(dataset.rglob("*.jpg"))))
    return time.perf_counter() - start


def stat_all(dataset: Path) -> float:
    """Time a stat of every file, found folder by folder."""
    start = time.perf_counter()
    for folder, _, names in os.walk(dataset):
        for name in names:
            os.stat(os.path.join(folder, name))
    return time.perf_counter() - start


def stages(dataset: Path) -> float:
    """Time ingest and bucket, without their imports and without the stage between them."""
    from stages.artifacts import read_table, write_table
    from stages.bucket import stage as bucket
    from stages.ingest import stage as ingest
    from stages.params import document
    from stages.params.read import read
    from stages.tables import to_table

    tree = document.load(Path("params.yaml"))
    tree["data"]["train_path"] = str(dataset)
    work = dataset.parent / "work"
    work.mkdir(exist_ok=True)
    os.chdir(work)
    Path("params.yaml").write_text(json.dumps(tree))  # JSON is YAML
    chosen, sizes = read(ingest.Params), read(bucket.Params)
    start = time.perf_counter()
    ingest.run(chosen)
    taken = time.perf_counter() - start
    images = read_table(ingest.Artifacts().images, "images").to_pylist()
    captions = [{"sample_id": r["sample_id"], "variant": 0, "caption": "a"} for r in images]
    write_table(bucket.Artifacts().captions, to_table(captions, "captions"), "captions")
    start = time.perf_counter()
    bucket.run(sizes)
    return taken + time.perf_counter() - start


def in_a_process(measure: Callable[[Path], float], dataset: Path) -> float:
    """Run a measurement in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (dataset,))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=512, help="longer side of a picture, pixels")
    parser.add_argument("--repetitions", type=int, default=3)
    asked = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; ",
        end="",
    )
    print(
        f"{asked.pictures} JPEGs of at most {asked.side} pixels a side, with a caption file each\n"
    )
    with tempfile.TemporaryDirectory() as place:
        dataset = Path(place, "pictures")
        make_pictures(dataset, asked.pictures, asked.side)
        alone, first, stats, again = [], [], [], []
        decode_and_hash(dataset)  # into the page cache
        for _ in range(asked.repetitions):
            alone.append(in_a_process(decode_and_hash, dataset))
            for old in Path(place, "work", ".dvc").rglob("*"):
                if old.is_file():
                    old.unlink()  # nothing is remembered
            first.append(in_a_process(stages, dataset))
            stats.append(in_a_process(stat_all, dataset))
            again.append(in_a_process(stages, dataset))
    files = 2 * asked.pictures
    rows = [
        ("decode and hash alone", statistics.median(alone), ""),
        ("ingest and bucket, first time", statistics.median(first), ""),
        ("ratio", statistics.median(first) / statistics.median(alone), f"at most {FIRST_GOAL}"),
        ("stat of every file", statistics.median(stats), ""),
        ("ingest and bucket, again", statistics.median(again), ""),
        ("ratio", statistics.median(again) / statistics.median(stats), ""),
        (
            "microseconds a picture, again",
            statistics.median(again) / asked.pictures * 1e6,
            f"at most {STAT_GOAL * 1e6:.0f} a file ({files} files)",
        ),
    ]
    print("| measure | median | goal |\n|---|---|---|")
    for name, value, goal in rows:
        print(f"| {name} | {value:.3g} | {goal} |")


if __name__ == "__main__":
    main()
