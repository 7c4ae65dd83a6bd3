"""The copy of the export in the user's folder, with a sidecar that says what it was born from."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.artifacts import read_json, staging, write_json

EXPORT = Path("data/export")
SIDECAR = "birth.json"  # untracked: commit and run id would make the tracked folder name itself
WRITER = "diffbase"


def check_destination(destination: Path, export: Path = EXPORT) -> None:
    """Refuse to replace what diffbase did not write; called before any work.

    Raises:
        ValueError: The destination is a file, holds files of others, or is the tracked folder.
    """
    ours, theirs = export.resolve(), destination.resolve()
    if ours == theirs or ours in theirs.parents or theirs in ours.parents:
        raise ValueError(
            f"experiment.output_dir: {str(destination)!r} overlaps {export}, which DVC tracks: "
            "choose a folder outside of it"
        )
    if not destination.exists():
        return
    foreign = _foreign_files(destination)
    if foreign:
        raise ValueError(
            f"experiment.output_dir: {str(destination)!r} holds what diffbase did not write "
            f"({foreign[0]!r}), so it is not replaced: move it away or choose another folder"
        )


def deliver(export: Path, destination: Path, birth: Mapping[str, Any]) -> None:
    """Replace the destination by a copy of `export` and its sidecar, completely or not at all."""
    with staging(destination) as staged:
        shutil.copytree(export, staged)
        files = sorted(_files(staged))
        write_json(staged / SIDECAR, {"written_by": WRITER, "files": files, **birth})


def birth_record(lock: Path, run_id: str | None) -> dict[str, Any]:
    """Give what an export was born from: commit, whether the tree differed from it, run, graph."""
    commit = _git("rev-parse", "HEAD")
    dirty = _git("status", "--porcelain", "--", ".", f":(exclude){lock}") if commit else None
    return {
        "git_commit": commit,
        "git_dirty": None if dirty is None else bool(dirty),
        "mlflow_run_id": run_id,
        "dvc_lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else None,
    }


def _foreign_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return [folder.name]
    sidecar = folder / SIDECAR
    record = read_json(sidecar) if sidecar.is_file() else {}
    known = {SIDECAR, *record["files"]} if record.get("written_by") == WRITER else set()
    return sorted(set(_files(folder)) - known)


def _files(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()]


def _git(*arguments: str) -> str | None:
    """Ask git about the working folder; None where there is no git, repository or commit."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
