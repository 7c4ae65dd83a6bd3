"""A component's fingerprint: what its weights and settings are, however they are laid out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from modelzoo.checkpoints.folder import read_config, weight_files
from modelzoo.checkpoints.stream import read_header

CHUNK = 1 << 26  # bytes read at once
READ = (".json", ".txt", ".model", ".jinja")  # how the files of tokenizers and schedulers end
# say who wrote a file, not what it holds
BOOKKEEPING = {"_diffusers_version", "transformers_version", "_name_or_path"}


def component_digest(folder: Path) -> str:
    """Hash a component: configuration, and every tensor's name, dtype, shape and bytes.

    Sharding and header metadata do not matter. A folder without a config.json (tokenizer,
    scheduler) counts as its files' names and bytes, as far as anything reads them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; give that of one component")
    if not (folder / "config.json").is_file():
        return _files_digest(folder)
    config = {k: v for k, v in read_config(folder).items() if k not in BOOKKEEPING}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    tensors = {
        name: (file, entry)
        for file in weight_files(folder)
        for name, entry in read_header(file).items()
    }
    for name in sorted(tensors):
        file, entry = tensors[name]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        _update_with_bytes(digest, file, *entry["data_offsets"])
    return digest.hexdigest()


def component_files(folder: Path) -> list[Path]:
    """List the files that a component consists of, without variants, licences and the like.

    A folder in Hugging Face's cache holds whatever any program downloaded into it.
    """
    if not (folder / "config.json").is_file():
        return sorted(path for path in folder.iterdir() if path.suffix in READ)
    indices = sorted(folder.glob("*.safetensors.index.json"))
    return [folder / "config.json", *indices, *weight_files(folder)]


def _files_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in component_files(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def _update_with_bytes(digest: Any, file: Path, start: int, stop: int) -> None:
    with file.open("rb") as stream:
        stream.seek(start)
        while start < stop:
            chunk = stream.read(min(CHUNK, stop - start))
            digest.update(chunk)
            start += len(chunk)
