"""Measure random access to cached latents and text against the caches of other trainers.

Run `python benchmarks/row_access.py` on a machine that does nothing else; it prints tables. Each
pass reads all rows once, in shuffled batches of 8, through threads that read ahead; with the files
in the page cache ("warm") or dropped from it first ("cold"). Passes are interleaved, and each ratio
is the median over repetitions of two passes of the same repetition. mosaicml-streaming is no
dependency: `pip install --no-deps --target FOLDER mosaicml-streaming brotli catalogue
cramjam python-snappy xxhash zstd`, and run with PYTHONPATH=FOLDER.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from row_access_formats import LANCE, LATENTS, OTHERS, TEXT, Format, Read, streaming

from stages.rows.keys import key_of
from stages.rows.table import RowTable

BATCH = 8
THREADS = (1, 2, 4)
GOALS = {"npz": 3.0, "safetensors": 1.0, "MDS": 1.0}
GROWTH = (1_000, 10_000, 100_000)  # rows
GROWTH_SHAPE = (64,)
Cell = tuple[str, int]  # "warm" or "cold", and the number of threads


def ahead(read: Read, batches: Sequence[Sequence[int]], threads: int) -> Iterator[Any]:
    """Yield batches in order while `threads` read the next ones."""
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for batch in batches:
            waiting.append(pool.submit(read, batch))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def rate(read: Read, batches: Sequence[Sequence[int]], threads: int) -> float:
    """Return GB/s of float32 values over one pass."""
    num_bytes = 0
    start = time.perf_counter()
    for latents, text in ahead(read, batches, threads):
        num_bytes += latents.nbytes + text.nbytes
    return num_bytes / (time.perf_counter() - start) / 1e9


def drop_cache(folder: Path) -> None:
    """Let the page cache forget the files below `folder`, which needs no root."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def write_all(formats: Sequence[Format], root: Path, num_rows: int) -> dict[str, float]:
    """Write the same rows in all formats; return MB on disk."""
    random = np.random.default_rng(0)
    latents = random.standard_normal((num_rows, *LATENTS), dtype=np.float32)
    text = random.standard_normal((num_rows, *TEXT), dtype=np.float32)
    sizes = {}
    for each in formats:
        folder = root / each.name
        folder.mkdir()
        each.write(folder, latents, text)
        files = (path for path in folder.rglob("*") if path.is_file())
        sizes[each.name] = sum(path.stat().st_size for path in files) / 1e6
    return sizes


def access(
    formats: Sequence[Format], root: Path, num_rows: int, repetitions: int
) -> dict[str, dict[Cell, list[float]]]:
    """Return GB/s of each format, cell and repetition."""
    random = np.random.default_rng(1)
    rates: dict[str, dict[Cell, list[float]]] = {each.name: {} for each in formats}
    for _ in range(repetitions):
        order = random.permutation(num_rows)
        batches = [order[i : i + BATCH].tolist() for i in range(0, num_rows - BATCH + 1, BATCH)]
        for cell in [(cache, threads) for cache in ("warm", "cold") for threads in THREADS]:
            for each in formats:
                folder, (cache, threads) = root / each.name, cell
                read = each.open(folder, num_rows)
                if cache == "cold":
                    drop_cache(folder)
                else:
                    deque(ahead(read, batches, 1), maxlen=0)
                rates[each.name].setdefault(cell, []).append(rate(read, batches, threads))
    return rates


def access_tables(
    rates: dict[str, dict[Cell, list[float]]], sizes: dict[str, float]
) -> Iterator[str]:
    """Yield the lines of two markdown tables: GB/s, and Lance's ratios to the others."""
    cells = list(rates[LANCE.name])
    heads = " | ".join(f"{cache}, {threads}" for cache, threads in cells)
    rule = "|---" * (len(cells) + 2) + "|"
    yield f"| GB/s of float32 values; read-ahead threads | MB | {heads} |"
    yield rule
    for name, found in rates.items():
        numbers = " | ".join(f"{statistics.median(found[cell]):.2f}" for cell in cells)
        yield f"| {name} | {sizes[name]:.0f} | {numbers} |"
    yield ""
    yield f"| Lance as a multiple of | goal | {heads} |"
    yield rule
    own = rates.pop(LANCE.name)
    for name, found in rates.items():
        ratios = (
            statistics.median(a / b for a, b in zip(own[cell], found[cell], strict=True))
            for cell in cells
        )
        goal = next((f"{goal:g}" for word, goal in GOALS.items() if word in name), "")
        yield f"| {name} | {goal} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


def growth(root: Path, repetitions: int) -> Iterator[str]:
    """Yield the lines of a table: what the store's operations cost as it grows."""
    table = RowTable.open(str(root), "latents-growth", {"mean": GROWTH_SHAPE})
    keys = [key_of(str(place)) for place in range(GROWTH[-1])]
    yield "| ms | " + " | ".join(f"{size:,} rows" for size in GROWTH) + " |"
    yield "|---" * (len(GROWTH) + 1) + "|"
    columns = []
    for size in GROWTH:
        _grow(table, keys[:size])
        columns.append(_costs(root, table, keys[:size], repetitions))
    for name in columns[0]:
        yield f"| {name} | " + " | ".join(f"{column[name]:.2f}" for column in columns) + " |"


def _grow(table: RowTable, keys: Sequence[str]) -> None:
    missing = table.missing(keys)
    for start in range(0, len(missing), 10_000):
        some = missing[start : start + 10_000]
        table.add(some, {"mean": np.ones((len(some), *GROWTH_SHAPE), np.float32)})


def _costs(root: Path, table: RowTable, keys: Sequence[str], repetitions: int) -> dict[str, float]:
    random = np.random.default_rng(2)
    fresh = iter(range(10**9))
    reader = RowTable.open(str(root), "latents-growth")
    reader.require(keys)

    def open_and_miss() -> None:
        RowTable.open(str(root), "latents-growth").missing(keys)

    def add() -> None:
        names = [key_of(f"{len(keys)} {next(fresh)}") for _ in range(10)]
        table.add(names, {"mean": np.ones((10, *GROWTH_SHAPE), np.float32)})

    def add_and_miss() -> None:
        add()
        table.missing(keys[:10])

    def take() -> None:
        reader.take([keys[place] for place in random.integers(0, len(keys), BATCH)])

    return {
        "open, and find which of all keys are missing": _ms(open_and_miss, repetitions),
        "the same of 10 keys, the table being open": _ms(
            lambda: reader.missing(keys[:10]), repetitions
        ),
        "take 8 rows": _ms(take, 20 * repetitions),
        "add 10 rows": _ms(add, repetitions),
        "add 10 rows, and find which of 10 keys are missing": _ms(add_and_miss, repetitions),
    }


def _ms(action: Callable[[], object], repetitions: int) -> float:
    action()
    taken = []
    for _ in range(repetitions):
        start = time.perf_counter()
        action()
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def machine(root: Path) -> str:
    """Describe the machine."""
    memory = psutil.virtual_memory().total / 2**30
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        names = [line for line in cpus.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    free = shutil.disk_usage(root).free / 1e9
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"
        f" {platform.release()}, Python {platform.python_version()}, {free:.0f} GB free"
    )


def main() -> None:
    """Measure all formats and the growth, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1200, help="of latents, and of text")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary one")
    asked = parser.parse_args()
    formats = [LANCE, *OTHERS]
    try:
        streaming()
    except ImportError as error:
        print(f"MDS is not measured: {error}\n")
        formats = [each for each in formats if not each.name.startswith("MDS")]
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        root = Path(folder)
        print(f"{machine(root)}; {asked.rows} rows, {asked.repetitions} repetitions\n")
        sizes = write_all(formats, root, asked.rows)
        rates = access(formats, root, asked.rows, asked.repetitions)
        print("\n".join(access_tables(rates, sizes)))
        print()
        print("\n".join(growth(root / "growth", 2 * asked.repetitions)))


if __name__ == "__main__":
    main()
