"""Run an experiment, say what it reached and where to look: what `make demo` does."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from flows.dvc_commands import environment

METRICS = Path("data/evaluate/metrics.json")
PLACES = {
    "data/sample/grid.png": "pictures of the experiment's prompts",
    "data/evaluate/grid.png": "held-out numbers, wrongly read ones framed",
    "data/export": "the model in the diffusers layout",
    "dvc plots show": "loss curves, grids and the confusion of digits",
    "make ui": "MLflow: parameters, curves and pictures of every training",
}
EXPERIMENTS = Path("params/experiments")
WORKTREES = Path("demos")  # one a demo, so that the active experiment stays what it is


def main() -> int:
    """Reproduce the active experiment here, or a named one in a worktree of its own."""
    parser = argparse.ArgumentParser(prog="python -m flows.demo", description=__doc__)
    parser.add_argument("experiment", nargs="?", help="name of a file in params/experiments")
    name = parser.parse_args().experiment
    try:
        folder = Path() if name is None else worktree(name)
        run(folder, "-m", "dvc", "repro")
    except subprocess.CalledProcessError as error:
        return error.returncode
    except ValueError as error:
        print(f"demo: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print("\n".join(["", *report(folder)]))  # noqa: T201
    return 0


def worktree(name: str, prepare: Callable[[Path], None] = lambda folder: None) -> Path:
    """Check the last commit out beside the project and make the experiment active there.

    DVC's cache, and with it the row store, is the project's own.

    Args:
        name: Of a file in params/experiments.
        prepare: Puts into the folder what the parameters name, before they are checked.

    Raises:
        ValueError: There is no such experiment.
        CalledProcessError: git, DVC or the parameters' check refused; it has said why.
    """
    if not (EXPERIMENTS / f"{name}.yaml").is_file():
        known = sorted(path.stem for path in EXPERIMENTS.glob("digits_*.yaml"))
        raise ValueError(f"EXPERIMENT: there is no {name!r}; use one of {known!r}")
    folder, commit = WORKTREES / name, git("rev-parse", "HEAD")
    if git("status", "--porcelain", "--", ".", ":(exclude)dvc.lock"):
        print("demo: uncommitted changes are left out, the last commit is run")  # noqa: T201
    if not (folder / ".git").is_file():
        git("worktree", "prune")
        git("worktree", "add", "--quiet", "--detach", str(folder), commit)
    elif git("rev-parse", "HEAD", folder=folder) != commit:
        git("reset", "--quiet", "--hard", commit, folder=folder)
    cache = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"],
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    run(folder, "-m", "dvc", "cache", "dir", "--local", cache)
    prepare(folder)
    run(folder, "-m", "stages.params", "use", str(EXPERIMENTS / f"{name}.yaml"))
    return folder


def report(folder: Path) -> list[str]:
    """Say what the experiment in a folder reached and where to look."""
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    lines = [f"  {name:<22} {value:g}" for name, value in sorted(metrics.items())]
    where = [] if folder == Path() else [f"in {folder}:"]
    return [*lines, "", *where, *(f"  {place:<22} {what}" for place, what in PLACES.items())]


def run(folder: Path, *arguments: str, log: Path | None = None) -> None:
    """Run our Python in a folder; what it prints is shown, or goes to the end of a file."""
    command = [sys.executable, *arguments]
    with nullcontext() if log is None else log.open("a", encoding="utf-8") as output:
        subprocess.run(
            command, cwd=folder, env=environment(), check=True, stdout=output, stderr=output
        )


def git(*arguments: str, folder: Path = Path()) -> str:
    """Ask git, whose complaints are shown."""
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
