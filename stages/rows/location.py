"""Where the row store is: beside DVC's cache, so that whatever shares the cache shares the rows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

EXPERIMENTS = "/.dvc/tmp/exps"  # DVC runs queued experiments in worktrees below this folder


def store_root(store: str | None) -> str:
    """Return the store's place: DIFFBASE_STORE, else `store` (data.store), else beside DVC's cache.

    A relative place is relative to the repository; in a queued experiment's worktree that is the
    main repository, so that both find the same rows. An address such as s3://bucket/rows stays.
    """
    place = os.environ.get("DIFFBASE_STORE") or store
    if place is None:
        return str(_dvc_cache().parent / "diffbase")
    if "://" in place:
        return place.rstrip("/")
    return str(_main_repository() / Path(place).expanduser())


def local_root(root: str) -> Path:
    """Return the folder for what needs a local disk (locks, renames, pictures): the store itself.

    Where that is an object store it is a folder of the repository, which its experiments share.
    """
    return _main_repository() / ".dvc/tmp/diffbase" if "://" in root else Path(root)


def _main_repository() -> Path:
    """Return the working folder, or the main repository's when it is an experiment's worktree."""
    here = Path.cwd().as_posix()
    return Path(here.partition(f"{EXPERIMENTS}/")[0])


def _dvc_cache() -> Path:
    """Ask DVC for its cache folder (in a queued experiment: the main repository's)."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    env = os.environ | {"DVC_NO_ANALYTICS": "1"}
    answer = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if answer.returncode:
        raise ValueError(
            f"{Path.cwd()}: the row store lies beside DVC's cache, but this folder is no DVC"
            " repository: set data.store or the environment variable DIFFBASE_STORE to a folder"
        )
    return Path(answer.stdout.strip()).resolve()


def require_space(root: str, num_bytes: int, what: str) -> None:
    """Raise ValueError when the disk below a local `root` has too little room for `what`."""
    free = free_bytes(root)
    if free is not None and num_bytes > free:
        raise ValueError(
            f"{what} need {num_bytes / 1e9:.1f} GB in {root}, but {free / 1e9:.1f} GB are free:"
            " free some, or point data.store to another disk"
        )


def free_bytes(root: str) -> int | None:
    """Return how much room is left below `root`; None where it is no local disk."""
    if "://" in root:
        return None
    place = next(folder for folder in [Path(root), *Path(root).parents] if folder.is_dir())
    return shutil.disk_usage(place).free
