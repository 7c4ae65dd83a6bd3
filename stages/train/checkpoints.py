"""Checkpoints beside the row store: whole or not there, checked when read, the newest few kept."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.rows.location import EXPERIMENTS
from stages.train.lock import free
from stages.train.progress import say
from stages.train.state import TrainState

FACTS = "state.json"
LOCK = "lock"
FINISHED = "finished"  # marks the folder of a training that reached its end
KEPT_TRAININGS = 4  # finished ones whose checkpoint is kept, beside this one


def checkpoint_folder(root: str, fingerprint: str) -> Path:
    """Return the place of a training's checkpoints: beside the row store, on a local disk."""
    if "://" in root:  # an object store has neither locks nor renames
        root = f"{Path.cwd().as_posix().partition(f'{EXPERIMENTS}/')[0]}/.dvc/tmp/diffbase"
    return Path(root) / "checkpoints" / fingerprint[:16]


class Content(NamedTuple):
    """What was read of a checkpoint."""

    path: Path
    files: dict[str, dict[str, Tensor]]  # as TrainState.tensors
    facts: dict[str, Any]  # as TrainState.facts


class Checkpoints:
    """The checkpoints of one training, in a folder that its fingerprint names.

    Of several processes the first writes, and all read, from a disk that their nodes share.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def restore(self, state: TrainState) -> None:
        """Continue `state` from the newest checkpoint that is whole; leave it if there is none."""
        content = self._newest_whole() if state.peers.is_first else None
        path = state.peers.told(content and content.path)
        if path is None:
            return
        content = content or _read(path)
        state.load(content.files, content.facts)
        say(f"going on after step {state.step} from {path}")

    def _newest_whole(self) -> Content | None:
        """Read the newest checkpoint that is whole, and remove what is not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial)
        for path in self._newest_first():
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                say(f"warning: {path} is damaged ({error}) and is removed; trying the one before")
                shutil.rmtree(path)
        return None

    def save(self, state: TrainState) -> None:
        """Write a checkpoint, unless the weights are unsound; then remove the oldest ones.

        Raises:
            ValueError: The disk has too little room, or training has diverged.
        """
        if not state.history.settle(state.step):
            return
        path = self.folder / f"step-{state.step:08d}"
        if not state.peers.is_first or path.exists():
            return
        self.require_space(state)
        partial = self.folder / f".{path.name}.partial"
        partial.mkdir()
        sums = {}
        for name, tensors in state.tensors().items():
            file = partial / f"{name}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
            sums[file.name] = _checksum(file)
        text = json.dumps(state.facts() | {"files": sums})
        (partial / FACTS).write_text(json.dumps({"sum": zlib.crc32(text.encode()), "text": text}))
        for file in [*partial.iterdir(), partial]:
            _to_disk(file)
        os.rename(partial, path)
        _to_disk(self.folder)
        for old in list(self._newest_first())[self.keep :]:
            shutil.rmtree(old)

    def finish(self) -> None:
        """Keep the newest checkpoint, from which a re-run ends at once; forget old trainings."""
        for old in list(self._newest_first())[1:]:
            shutil.rmtree(old)
        (self.folder / FINISHED).touch()
        others = [
            mark for mark in self.folder.parent.glob(f"*/{FINISHED}") if mark.parent != self.folder
        ]
        for mark in sorted(others, key=lambda mark: mark.stat().st_mtime)[:-KEPT_TRAININGS]:
            with free(mark.parent / LOCK) as is_free:
                if is_free:
                    shutil.rmtree(mark.parent)

    def require_space(self, state: TrainState) -> None:
        """Raise ValueError when the disk has too little room for what will be kept of `state`."""
        slots = 2 * sum(4 * p.numel() for p in state.trainable.values())  # AdamW's, unborn at first
        files = state.tensors()
        weights = sum(
            t.nbytes for name in files.keys() - {"optimizer"} for t in files[name].values()
        )
        num_more = max(1, self.keep + 1 - len(list(self._newest_first())))
        needed, available = num_more * (slots + weights), shutil.disk_usage(self.folder).free
        if needed > available:
            raise ValueError(
                f"{self.folder} has {available / 1e9:.1f} GB free, but {num_more} more checkpoints "
                f"need {needed / 1e9:.1f} GB: free some, or point data.store to another disk"
            )

    def _newest_first(self) -> Iterator[Path]:
        yield from sorted(self.folder.glob("step-*"), reverse=True)


def _read(path: Path) -> Content:
    """Read a checkpoint whose files are as they were written."""
    outer = json.loads((path / FACTS).read_text())
    if zlib.crc32(outer["text"].encode()) != outer["sum"]:
        raise ValueError(f"the checksum of {FACTS} is wrong")
    facts = json.loads(outer["text"])
    for name, checksum in facts["files"].items():
        if _checksum(path / name) != checksum:
            raise ValueError(f"the checksum of {name} is wrong")
    files = {name.removesuffix(".safetensors"): load_file(path / name) for name in facts["files"]}
    return Content(path, files, facts)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _to_disk(path: Path) -> None:
    """Wait until a file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
