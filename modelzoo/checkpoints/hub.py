"""Models on Hugging Face: the files that are needed, or the sentence what to put where.

Light stages import this module, so neither torch nor huggingface_hub is imported at its head.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

INDEX = "model_index.json"
REPO = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # owner/name, perhaps @revision
COMMIT = re.compile(r"[0-9a-f]{40}")


class Unreachable(OSError):
    """Hugging Face does not answer; the text says why."""


def _weights(stem: str) -> tuple[str, ...]:
    """List a component's files: no variant such as fp16 fits, and no pickle."""
    return (
        "config.json",
        f"{stem}.safetensors",
        f"{stem}.safetensors.index.json",
        f"{stem}-*-of-*.safetensors",
    )


FILES = {  # by the folder's name without its number
    "scheduler": ("scheduler_config.json",),
    "tokenizer": ("*.json", "*.txt", "*.model", "*.jinja"),
    "text_encoder": _weights("model"),
    "transformer": _weights("diffusion_pytorch_model"),
    "unet": _weights("diffusion_pytorch_model"),
    "vae": _weights("diffusion_pytorch_model"),
}


def is_repo(name: str) -> bool:
    """Tell whether a name can be that of a Hugging Face repository, perhaps with @revision."""
    return REPO.fullmatch(name) is not None


def parse(name: str) -> tuple[str, str]:
    """Take owner/name@revision apart; without a revision it is main.

    Raises:
        ValueError: The name cannot be that of a repository.
    """
    if (match := REPO.fullmatch(name)) is None:
        raise ValueError(f"{name!r} is no Hugging Face id: give owner/name or owner/name@revision")
    return match[1], match[2] or "main"


def patterns(folders: Sequence[str]) -> list[str]:
    """List the files needed of a repository in the diffusers layout, * standing for any letters."""
    return [INDEX, *(f"{folder}/{name}" for folder in folders for name in needed(folder))]


def needed(folder: str) -> tuple[str, ...]:
    """List the files that are read of a component's folder, such as tokenizer_2."""
    return FILES[re.sub(r"_\d$", "", folder)]


def commit_of(name: str) -> str | None:
    """Find the commit that a name means now; None where neither Hugging Face nor the cache says.

    Raises:
        ValueError: There is no such model or revision, or it is not in the diffusers layout.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, revision = parse(name)
    try:
        with _own_errors(name):
            files = snapshot_download(repo, revision=revision, allow_patterns=[INDEX], dry_run=True)
        _check_files(name, [file.filename for file in files], ())
        return files[0].commit_hash
    except Unreachable:
        pass
    try:
        cached = snapshot_download(
            repo, revision=revision, allow_patterns=[INDEX], local_files_only=True
        )
        return Path(cached).name
    except LocalEntryNotFoundError:
        return None


def download(name: str, folders: Sequence[str]) -> Path:
    """Make sure that a model is in Hugging Face's cache, and give its folder there.

    Args:
        name: owner/name, or owner/name@revision with a branch, tag or commit.
        folders: The components needed, such as transformer, vae, text_encoder, tokenizer_2.

    Raises:
        FileNotFoundError: Hugging Face cannot be reached and the cache does not hold the model.
        ValueError: There is no such model or revision, its licence is not accepted, a component is
            not there as safetensors, or the disk is too small.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, revision = parse(name)
    wanted = patterns(folders)
    fetch = partial(snapshot_download, repo, revision=revision, allow_patterns=wanted)
    try:
        with _own_errors(name):
            files = snapshot_download(repo, revision=revision, allow_patterns=wanted, dry_run=True)
            _check_files(name, [file.filename for file in files], folders)
            _check_space(name, sum(file.file_size or 0 for file in files if file.will_download))
            return Path(fetch())
    except Unreachable as error:
        reason = str(error)
    try:
        return Path(fetch(local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: Hugging Face cannot be reached ({reason}) and its cache "
            f"{constants.HF_HUB_CACHE!r} does not hold all of the model: where there is a network, "
            "download these files of the repository into a folder, each in its subfolder, and give "
            f"that folder as model.pretrained_path: {', '.join(wanted)}"
        ) from error


@contextmanager
def _own_errors(name: str) -> Iterator[None]:
    """Say the library's errors in one sentence that tells what to do."""
    from huggingface_hub.errors import (
        DryRunError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, revision = parse(name)
    try:
        yield
    except RevisionNotFoundError as error:
        raise ValueError(
            f"{name}: {repo!r} has no revision {revision!r}: give one of its branches, tags or "
            "commits"
        ) from error
    except RepositoryNotFoundError as error:
        raise _not_shown(name, repo) from error
    except (DryRunError, LocalEntryNotFoundError) as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise _not_shown(name, repo) from error
        raise Unreachable(str(error.__cause__ or error).strip().splitlines()[0]) from error


def _not_shown(name: str, repo: str) -> ValueError:
    """Say what a repository that is not found may mean; one with a licence to accept is, too."""
    from huggingface_hub import constants

    return ValueError(
        f"{name}: Hugging Face has no such model, or does not show it to you: correct the name, or "
        f"accept its licence at {constants.ENDPOINT}/{repo} and log in with `hf auth login`"
    )


def _check_files(name: str, files: Sequence[str], folders: Sequence[str]) -> None:
    """Refuse a repository that is not in the diffusers layout, before gigabytes are downloaded."""
    absent = [] if INDEX in files else [INDEX]
    for folder in folders:
        names = needed(folder)
        end = ".safetensors" if any(n.endswith(".safetensors") for n in names) else ".json"
        if not any(file.startswith(f"{folder}/") and file.endswith(end) for file in files):
            absent.append(f"{folder}/*{end}")
    if absent:
        raise ValueError(
            f"{name} is not a whole model in the diffusers layout: {', '.join(absent)} is not "
            f"there: choose a repository that has {', '.join(patterns(folders))}"
        )


def _check_space(name: str, needed_bytes: int) -> None:
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE)
    while not home.exists():
        home = home.parent
    if needed_bytes > (free := shutil.disk_usage(home).free):
        raise ValueError(
            f"{name}: {needed_bytes / 1e9:.1f} GB are to be downloaded, but "
            f"{constants.HF_HUB_CACHE!r} has {free / 1e9:.1f} GB free: make space, or set HF_HOME "
            "to a folder on a larger disk"
        )
