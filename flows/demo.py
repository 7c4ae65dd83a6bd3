"""Say what the experiment reached and where to look: the end of `make demo`."""

from __future__ import annotations

import json
from pathlib import Path

METRICS = Path("data/evaluate/metrics.json")
PLACES = {
    "data/sample/grid.png": "pictures of the experiment's prompts",
    "data/evaluate/grid.png": "held-out numbers, wrongly read ones framed",
    "data/export": "the model in the diffusers layout",
    "dvc plots show": "loss curves, grids and the confusion of digits",
    "make ui": "MLflow: parameters, curves and pictures of every training",
}


def main() -> None:
    """Print the metrics and the places."""
    metrics = json.loads(METRICS.read_text(encoding="utf-8"))
    lines = [f"  {name:<22} {value:g}" for name, value in sorted(metrics.items())]
    lines += ["", *(f"  {place:<22} {what}" for place, what in PLACES.items())]
    print("\n".join(["", *lines]))  # noqa: T201


if __name__ == "__main__":
    main()
