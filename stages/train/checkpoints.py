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

from stages.params.training import Checkpoint
from stages.rows.location import local_root
from stages.train.history import History
from stages.train.lock import free
from stages.train.progress import say
from stages.train.state import TrainState

FACTS = "state.json"
LOCK = "lock"
FINISHED = "finished"  # marks the folder of a training that reached its end
KEPT_TRAININGS = 4  # finished ones whose checkpoint is kept, beside this one


def checkpoint_folder(root: str, fingerprint: str) -> Path:
    """Return the place of a training's checkpoints: beside the row store, on a local disk."""
    return local_root(root) / "checkpoints" / fingerprint[:16]


class Content(NamedTuple):
    """What was read of a checkpoint."""

    path: Path
    files: dict[str, dict[str, Tensor]]  # as TrainState.tensors
    facts: dict[str, Any]  # as TrainState.facts


class Checkpoints:
    """The checkpoints of one training, in a folder that its fingerprint names.

    Of several processes the first writes, and all read, from a disk that their nodes share.
    """

    def __init__(self, folder: Path, settings: Checkpoint, start: Path | None = None) -> None:
        self.folder = folder
        self.settings = settings
        self.start = start  # a checkpoint of another folder, where this one has none

    def restore(self, state: TrainState) -> None:
        """Continue `state` from the newest checkpoint that is whole; leave it if there is none.

        Raises:
            ValueError: `start`, which was asked for, cannot be gone on from.
        """
        content = self._newest_whole() if state.peers.is_first else None
        if content is None and self.start is not None and state.peers.is_first:
            self._copy_best(self.start.parent)
        path = state.peers.told(self.start if content is None else content.path)
        if path is None:
            return
        if path == self.start:
            _load_asked_for(path, state)
        else:
            content = content or _read(path)
            state.load(content.files, content.facts)
        say(f"going on after step {state.step} from {path}")

    def _newest_whole(self) -> Content | None:
        """Read the newest checkpoint that is whole, and remove what is not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial)
        for path in self._newest_first():
            content = _whole(path)
            if content is None:
                continue
            if self.settings.use == "best" and not self._has_best_of(content):
                say(f"{self.folder} did not keep its best checkpoint, so training starts anew")
                break
            return content
        for path in self._newest_first():
            shutil.rmtree(path)
        return None

    def _copy_best(self, other: Path) -> None:
        """Take over the best checkpoint of the folder that is gone on from."""
        for path in other.glob("best-*"):
            if not (copy := self.folder / path.name).exists():
                partial = self.folder / f".{path.name}.partial"
                shutil.copytree(path, partial)
                os.rename(partial, copy)

    def _has_best_of(self, content: Content) -> bool:
        """Return whether the best of the steps so far is there."""
        history = History()
        history.load(content.facts["history"])
        step = history.best_step
        return step is None or ((path := self._best(step)).exists() and _whole(path) is not None)

    def save(self, state: TrainState, is_last: bool = False) -> None:
        """Write a checkpoint, unless the step was bad; then remove the oldest ones.

        A last step whose loss is far above the usual is saved all the same: it ends nothing.

        Raises:
            ValueError: The disk has too little room, or training has diverged.
        """
        if state.history.settle(state.step) or (is_last and state.history.bad.is_finite):
            self._write(self.folder / f"step-{state.step:08d}", state)
            if state.peers.is_first:
                for old in list(self._newest_first())[self.settings.keep :]:
                    shutil.rmtree(old)

    def save_best(self, state: TrainState) -> None:
        """Keep the checkpoint of the lowest validation loss so far, and no other such.

        Raises:
            ValueError: The disk has too little room, or training has diverged.
        """
        state.history.settle(state.step)
        if state.history.best_step == state.step:
            path = self._best(state.step)
            self._write(path, state)
            for old in self.folder.glob("best-*"):
                if old != path and state.peers.is_first:
                    shutil.rmtree(old)

    def take_best(self, state: TrainState) -> int:
        """Put the weights of the lowest validation loss into `state`; return their step.

        Raises:
            ValueError: Their checkpoint is damaged.
        """
        step, last = state.history.best_step, state.step
        assert step is not None, "the last step is validated, and its loss is finite"
        content, curves = _read(self._best(step)), state.history.to_json()
        state.load(content.files, content.facts)
        state.history.load(curves)
        state.step = last
        return step

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}"

    def _write(self, path: Path, state: TrainState) -> None:
        is_first = state.peers.is_first
        if state.peers.told(path.exists()):
            return
        partial = self.folder / f".{path.name}.partial"
        if is_first:
            self.require_space(state)
            partial.mkdir()
        sums = {}
        for name, parts in state.tensors().items():
            tensors = state.holding.joined(parts)
            if is_first:
                file = partial / f"{name}.safetensors"
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)
                sums[file.name] = _checksum(file)
        if not is_first:
            return
        text = json.dumps(state.facts() | {"files": sums})
        (partial / FACTS).write_text(json.dumps({"sum": zlib.crc32(text.encode()), "text": text}))
        for file in [*partial.iterdir(), partial]:
            _to_disk(file)
        os.rename(partial, path)
        _to_disk(self.folder)

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
        num_more = max(1, self.settings.keep + 1 - len(list(self._newest_first())))
        num_more += self.settings.keep_best
        needed = num_more * sum(state.checkpoint_bytes().values())
        available = shutil.disk_usage(self.folder).free
        if needed > available:
            raise ValueError(
                f"{self.folder} has {available / 1e9:.1f} GB free, but {num_more} more checkpoints "
                f"need {needed / 1e9:.1f} GB: free some, or point data.store to another disk"
            )

    @property
    def newest(self) -> Path | None:
        """The folder of the newest checkpoint."""
        return next(self._newest_first(), None)

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


def _load_asked_for(path: Path, state: TrainState) -> None:
    try:
        content = _read(path)
        state.load(content.files, content.facts)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"params.yaml: training.checkpoint.resume_from: {path} is damaged or of code that kept "
            f"other things ({type(error).__name__}: {error}): give another, or null"
        ) from error


def _whole(path: Path) -> Content | None:
    """Read a checkpoint; remove it where it is damaged."""
    try:
        return _read(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        say(f"warning: {path} is damaged ({error}) and is removed; trying the one before")
        shutil.rmtree(path)
        return None


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
