"""Measure what encoding pictures costs beside the autoencoder's own time.

Run `python benchmarks/encoding.py` on a machine that does nothing else; it prints a table. The
imports are inside `main`, because the processes that open pictures import this file again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=64, help="JPEGs of one megapixel")
    parser.add_argument("--rows", type=int, default=10_000, help="in the store before ten more")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, alternating")
    parser.add_argument("--threads", type=int, default=2, help="hardware.threads")
    parser.add_argument("--batch-size", type=int, default=4, help="hardware.encode_batch_size")
    parser.add_argument("--decode-workers", type=int, default=1, help="hardware.decode_workers")
    asked = parser.parse_args()

    import encoding_cases as cases

    print(f"{cases.machine()}; {asked}\n")
    print("| measure | value |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for measure in (cases.overlap, cases.addition):
            for name, value in measure(Path(folder), asked):
                print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
