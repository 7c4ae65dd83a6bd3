"""Models on Hugging Face: the files that are needed, or the sentence what to put where."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from modelzoo.checkpoints.folder import DIFFUSERS_STEM, TRANSFORMERS_STEM

REPO = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # owner/name, perhaps @revision


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
    "text_encoder": _weights(TRANSFORMERS_STEM),
    "transformer": _weights(DIFFUSERS_STEM),
    "unet": _weights(DIFFUSERS_STEM),
    "vae": _weights(DIFFUSERS_STEM),
}


def is_repo(name: str) -> bool:
    """Tell whether a name can be that of a Hugging Face repository, perhaps with @revision."""
    return REPO.fullmatch(name) is not None


def patterns(folders: Sequence[str]) -> list[str]:
    """List the files needed of a repository in the diffusers layout, * standing for any letters."""
    files = [f"{folder}/{name}" for folder in folders for name in FILES[_kind(folder)]]
    return ["model_index.json", *files]


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
    repo, revision = REPO.fullmatch(name).groups()  # type: ignore[union-attr]
    needed = patterns(folders)
    fetch = partial(snapshot_download, repo, revision=revision, allow_patterns=needed)
    try:
        files = snapshot_download(repo, revision=revision, allow_patterns=needed, dry_run=True)
        _check_files(name, [file.filename for file in files], folders)
        _check_space(name, sum(file.file_size or 0 for file in files if file.will_download))
        return Path(fetch())
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
        reason = str(error.__cause__ or error).strip().splitlines()[0]
    try:
        return Path(fetch(local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: Hugging Face cannot be reached ({reason}) and its cache "
            f"{constants.HF_HUB_CACHE!r} does not hold all of the model: where there is a network, "
            "download these files of the repository into a folder, each in its subfolder, and give "
            f"that folder as model.pretrained_path: {', '.join(needed)}"
        ) from error


def _not_shown(name: str, repo: str) -> ValueError:
    """Say what a repository that is not found may mean; one with a licence to accept is, too."""
    return ValueError(
        f"{name}: Hugging Face has no such model, or does not show it to you: correct the name, or "
        f"accept its licence at {constants.ENDPOINT}/{repo} and log in with `hf auth login`"
    )


def _check_files(name: str, files: Sequence[str], folders: Sequence[str]) -> None:
    """Refuse a repository that is not in the diffusers layout, before gigabytes are downloaded."""
    absent = [] if "model_index.json" in files else ["model_index.json"]
    for folder in folders:
        names = FILES[_kind(folder)]
        end = ".safetensors" if any(n.endswith(".safetensors") for n in names) else ".json"
        if not any(file.startswith(f"{folder}/") and file.endswith(end) for file in files):
            absent.append(f"{folder}/*{end}")
    if absent:
        raise ValueError(
            f"{name} is not a whole model in the diffusers layout: {', '.join(absent)} is not "
            f"there: choose a repository that has {', '.join(patterns(folders))}"
        )


def _check_space(name: str, needed_bytes: int) -> None:
    home = Path(constants.HF_HUB_CACHE)
    while not home.exists():
        home = home.parent
    if needed_bytes > (free := shutil.disk_usage(home).free):
        raise ValueError(
            f"{name}: {needed_bytes / 1e9:.1f} GB are to be downloaded, but "
            f"{constants.HF_HUB_CACHE!r} has {free / 1e9:.1f} GB free: make space, or set HF_HOME "
            "to a folder on a larger disk"
        )


def _kind(folder: str) -> str:
    return re.sub(r"_\d$", "", folder)
