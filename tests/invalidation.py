"""What each change makes the pipeline do again: the table of docs/invalidation.md.

`python -m tests.invalidation` writes it. The stages that prepare data run for real on eight small
pictures; of the encoding stages only the row keys are computed, by the stages' own functions: a key
that was not there before is a row to encode. Which stages run is read from dvc.yaml.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages import encode_captions
from stages.artifacts import extra_metadata, read_table
from stages.base_record import read_record
from stages.bucket import stage as bucket
from stages.bucketed_pictures import to_encode
from stages.check_captions import stage as check_captions
from stages.encode_images import stage as encode_images
from stages.ingest import stage as ingest
from stages.make_conditions import stage as make_conditions
from stages.params import document
from stages.params.read import read
from stages.picture_rows import kind_of, rows_of
from stages.rows.keys import key_of
from stages.tokenizers import open_tokenizers
from stages.visit_geometry import Drawn
from tests import toys

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs/invalidation.md"
GRAPH = document.load(ROOT / "dvc.yaml")["stages"]
STAGES = ("ingest", "check_captions", "bucket", "encode_images", "encode_captions", "train")
LIGHT = {
    "ingest": ingest,
    "check_captions": check_captions,
    "bucket": bucket,
    "make_conditions": make_conditions,
}
SIZES = ((64, 64), (64, 64), (90, 70), (70, 90), (140, 60), (60, 140), (200, 200), (36, 40))
FOLDERS = ("mask", "condition", "before", "style")  # of what belongs to the pictures
ROLES = {"mask": "mask", "condition": "condition", "references": ["before", "style"]}
Tree = dict[str, Any]


@dataclass(frozen=True)
class State:
    """What a run of the pipeline leaves: digests of files, and the keys of the rows it needs."""

    params: Tree
    files: Mapping[str, str]
    rows: Mapping[str, frozenset[str]]  # by encoding stage


@dataclass
class World:
    """A folder with pictures, a base and params.yaml, which is the working folder."""

    root: Path
    params: Tree

    def picture(self, name: str, seed: int, width: int = 150, height: int = 150) -> None:
        """Draw a picture, transparent in places, with a caption of its own."""
        pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 4), dtype=np.uint8)
        path = self.root / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST).save(path)
        path.with_suffix(".txt").write_text(f"picture {seed}, red, blue")

    def give_roles(self, name: str, seed: int, width: int, height: int) -> None:
        """Draw a mask, a condition and two references of a picture."""
        for number, folder in enumerate(FOLDERS, 1):
            self.picture(f"{folder}/{name}", 1000 * number + seed, width, height)
            (self.root / "pictures" / folder / name).with_suffix(".txt").unlink()

    def run(self) -> State:
        """Run what prepares the data and name the rows that the encoders would be asked for."""
        (self.root / "params.yaml").write_text(json.dumps(self.params))
        for module in LIGHT.values():
            module.run(read(module.Params))
        rows = {"encode_images": self._latents(), "encode_captions": self._prompts()}
        files = {
            path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in ("data", "pictures")
            for path in (self.root / folder).rglob("*")
            if path.is_file()
        }
        files["data/latents.parquet"], files["data/prompts.parquet"] = map(str, rows.values())
        keys = {stage: frozenset(keys for _, keys in named) for stage, named in rows.items()}
        return State(copy.deepcopy(self.params), files, keys)

    def _latents(self) -> list[tuple[str, str]]:
        params = read(encode_images.Params)
        buckets = read_table(encode_images.Artifacts().buckets, "buckets")
        if Drawn.from_metadata(extra_metadata(buckets)) is not None:
            return []  # training encodes
        record = read_record(encode_images.Artifacts().vae)
        autoencoder = encode_images.open_autoencoder(record, params.dtype, "cpu")
        encoder = encode_images.picture_encoder(autoencoder, record.digest, params)
        parts = {"latents": {**encoder.parts, "generation": "generation"}, "masks": {}}
        files = encode_images.Artifacts()
        given = to_encode(files.buckets, files.conditions, files.condition_pictures)
        found = []
        for row in rows_of(given):
            kind = kind_of(row, params.family)
            key = key_of(encode_images.described(parts[kind], kind, row))
            found.append((str([row[name] for name in encode_images.CARRIED]), key))
        return found

    def _prompts(self) -> list[tuple[str, str]]:
        params, artifacts = read(encode_captions.Params), encode_captions.Artifacts()
        tokenizer = open_tokenizers(params.family, read_record(artifacts.tokenizer))
        record = read_record(artifacts.text_encoder)
        text_encoder = encode_captions.open_text_encoder(record, tokenizer, params, "cpu")
        encoder = encode_captions.caption_encoder(text_encoder, record.digest, params)
        describe = partial(
            encode_captions.caption_parts, encoder.parts, text_encoder.layers, "generation"
        )
        captions = read_table(artifacts.captions, "captions")["caption"].to_pylist()
        return [
            (caption, key_of(describe(encode_captions.tokens(tokenizer, caption))))
            for caption in sorted({*captions, ""})
        ]


@cache
def origin(has_roles: bool = False) -> tempfile.TemporaryDirectory[str]:
    """Make a world of the table once: of pictures alone, or of all roles."""
    folder = tempfile.TemporaryDirectory()
    with working_in(Path(folder.name), has_roles) as made:
        toys.make_base(Path("data/base"), "flux2")
        for number, (width, height) in enumerate(SIZES):
            made.picture(f"{number}.png", number, width, height)
            if has_roles:
                made.give_roles(f"{number}.png", number, width, height)
        made.run()
    return folder


@contextmanager
def world(has_roles: bool = False) -> Iterator[World]:
    """Copy a world of the table, and work in it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(origin(has_roles).name, folder, dirs_exist_ok=True)
        with working_in(Path(folder), has_roles) as made:
            yield made


@contextmanager
def working_in(root: Path, has_roles: bool = False) -> Iterator[World]:
    """Make a folder the working folder, with parameters that give its pictures buckets."""
    tree = document.load(ROOT / "params.yaml")
    tree["data"] |= {"train_path": "pictures", "validation_fraction": 0.2, "max_bad_fraction": 0.2}
    tree["data"] |= {"resolution": 64, "bucket_resolution_steps": 32}
    tree["data"] |= {"min_bucket_resolution": 32, "max_bucket_resolution": 128}
    tree["data"] |= ROLES if has_roles else {}
    tree["model"] |= {"type": "flux2", "dtype": "float32"}
    before = Path.cwd()
    os.chdir(root)
    try:
        yield World(root, tree)
    finally:
        os.chdir(before)


@cache
def baseline(has_roles: bool = False) -> State:
    """Return what the unchanged world leaves."""
    with world(has_roles) as made:
        return made.run()


def runs(stage: str, before: State, after: State, code: str | None) -> bool:
    """Tell whether DVC would run a stage: a parameter, an input or its code is another."""
    stanza = GRAPH[stage]
    if any(look_up(before.params, k) != look_up(after.params, k) for k in stanza["params"]):
        return True
    inputs = [dep.replace("${data.train_path}", "pictures") for dep in stanza["deps"]]
    if code is not None and any(Path(code).is_relative_to(dep) for dep in inputs):
        return True
    names = before.files.keys() | after.files.keys()
    changed = {name for name in names if before.files.get(name) != after.files.get(name)}
    return any(Path(name).is_relative_to(dep) for name in changed for dep in inputs)


def look_up(tree: Mapping[str, Any], dotted: str) -> Any:
    """Follow a dotted key."""
    value: Any = tree
    for name in dotted.split("."):
        value = value[name] if value is not None else None
    return value


@dataclass(frozen=True)
class Change:
    """Something that a user does between two runs."""

    name: str  # as the table has it
    do: Callable[[World], None]
    keys: tuple[str, ...] = ()  # the parameters that it sets
    code: str | None = None  # the file of ours that it edits
    has_roles: bool = False  # each picture has a mask, a condition and two references


def setting(values: Mapping[str, Any] | str, value: Any = None) -> Change:
    """Set a parameter, or several."""
    chosen = {values: value} if isinstance(values, str) else values

    def do(world: World) -> None:
        for key, new in chosen.items():
            *parents, last = key.split(".")
            section = world.params
            for name in parents:
                section = section[name]
            assert section[last] != new, f"{key} is {new!r} already"
            section[last] = new

    shown = ", ".join(
        f"`{key}` = {new if isinstance(new, str) else json.dumps(new)}"
        for key, new in chosen.items()
    )
    return Change(shown, do, keys=tuple(chosen))


def editing(path: str) -> Change:
    """Edit a file of the repository in a way that changes no result."""
    return Change(f"code of `{path}`", lambda world: None, code=path)


def text(name: str, content: str) -> Callable[[World], None]:
    """Write a caption file."""
    return lambda world: _written(world.root / "pictures" / name, content)


def _written(path: Path, content: str) -> None:
    path.write_text(content)


def _renamed(world: World) -> None:
    for suffix in (".png", ".txt"):
        (world.root / f"pictures/0{suffix}").rename(world.root / f"pictures/renamed{suffix}")


def painted(path: str) -> Callable[[World], None]:
    """Paint over what belongs to the picture 0, which is as large as its own."""

    def do(world: World) -> None:
        world.picture(path, 4321, *SIZES[0])
        (world.root / "pictures" / path).with_suffix(".txt").unlink()

    return do


def _without(folder: str, **data: Any) -> Callable[[World], None]:
    """Take a folder away that `data` names no longer."""

    def do(world: World) -> None:
        shutil.rmtree(world.root / "pictures" / folder)
        world.params["data"] |= data

    return do


def with_roles(change: Change) -> Change:
    """Do the same where each picture has a mask, a condition and two references."""
    return replace(change, name=f"with all roles: {change.name}", has_roles=True)


def _touched(world: World) -> None:
    for path in (world.root / "pictures").iterdir():
        os.utime(path)


def _recompressed(world: World) -> None:
    path = world.root / "pictures/0.png"
    Image.open(path).save(path, compress_level=1)


def _removed(world: World) -> None:
    (world.root / "pictures/0.png").unlink()
    (world.root / "pictures/0.txt").unlink()


def _other_weights(record: str) -> Callable[[World], None]:
    def do(world: World) -> None:
        path = world.root / f"data/base/{record}.json"
        content = json.loads(path.read_text())
        content["digest"] = hashlib.sha256(content["digest"].encode()).hexdigest()
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

    return do


CHANGES = (
    Change("nothing", lambda world: None),
    Change("a caption edited", text("0.txt", "another text")),
    Change("a caption given the text of another", text("0.txt", "picture 1, red, blue")),
    Change("a picture added", lambda world: world.picture("new.png", 99)),
    Change("a picture painted over", lambda world: world.picture("0.png", 77)),
    Change("a picture copied", lambda world: world.picture("copy.png", 0)),
    Change("a picture removed", _removed),
    Change("a picture renamed", _renamed),
    Change("a picture compressed anew without loss", _recompressed),
    Change("all files touched", _touched),
    Change("other weights of the VAE", _other_weights("vae")),
    Change("other weights of the text encoder", _other_weights("text_encoder")),
    Change("other weights of the denoiser", _other_weights("denoiser")),
    editing("stages/train/loop.py"),
    editing("modelzoo/flux/v2/transformer.py"),
    editing("modelzoo/autoencoders/flux2.py"),
    editing("modelzoo/text_encoders/qwen3.py"),
    editing("stages/pixels.py"),
    setting("data.resolution", 96),
    setting("data.resolutions", [32]),
    setting("data.bucket_resolution_steps", 16),
    setting("data.min_bucket_resolution", 64),
    setting("data.max_bucket_resolution", 64),
    setting("data.buckets", ["64x64", "32x64"]),
    setting("data.no_upscale", False),
    setting({"data.small_buckets": "merge", "data.min_bucket_images": 2}),
    setting("data.crop", "random"),
    setting({"data.crop": "random", "data.crop_variants": 3}),
    setting("data.flip", True),
    setting("data.cache_latents", False),
    setting("data.seed", 1),
    setting("data.background", "black"),
    setting("data.max_pixels", 20000),
    setting("data.validation_fraction", 0.5),
    setting("data.exact_duplicates", "exclude"),
    setting("data.near_duplicate_bits", None),
    setting("data.leakage", "exclude"),
    setting("data.max_bad_fraction", 0.5),
    setting("data.max_missing_caption_fraction", 0.5),
    setting("data.allow_outside", True),
    setting("data.captions.per_line", True),
    setting("data.captions.prefix", "photo of "),
    setting("data.captions.suffix", ", sharp"),
    setting("data.captions.shuffle_tags", True),
    setting({"data.captions.shuffle_tags": True, "data.captions.variants": 2}),
    setting({"data.captions.shuffle_tags": True, "data.captions.keep_tags": 2}),
    setting({"data.captions.shuffle_tags": True, "data.captions.tag_separator": ";"}),
    setting("data.captions.tag_dropout", 0.5),
    setting("data.captions.wildcards", True),
    setting("data.captions.trigger_word", "picture"),
    setting("data.captions.class_word", "red"),
    setting("data.captions.max_truncated_fraction", 0.5),
    setting("data.captions.max_duplicate_fraction", 0.5),
    setting("data.captions.max_unclean_fraction", 0.5),
    setting("model.dtype", "bfloat16"),
    setting("hardware.encode_batch_size", 1),
    setting("hardware.threads", 1),
    setting("hardware.decode_workers", 2),
    setting("hardware.encode_workers", "ray"),
    setting("hardware.mixed_precision", "bf16"),
    setting("hardware.compile", True),
    setting("training.learning_rate", 0.5),
    setting("training.batch_size", 3),
    setting("training.caption_dropout", 0.5),
    setting("experiment.seed", 7),
    setting("experiment.name", "another"),
    setting("sample.steps", 3),
    setting("tracking.samples", {"every": 100}),
    setting(
        {"training.method": "controlnet", "training.controlnet": {"conditioning_type": "grey"}}
    ),
    with_roles(Change("a mask painted over", painted("mask/0.png"))),
    with_roles(Change("a condition painted over", painted("condition/0.png"))),
    with_roles(Change("a reference painted over", painted("before/0.png"))),
    with_roles(Change("a picture painted over", lambda world: world.picture("0.png", 77, 64, 64))),
    with_roles(setting("data.flip", True)),
    with_roles(setting({"data.crop": "random", "data.crop_variants": 3})),
    with_roles(Change("no masks any more", _without("mask", mask=None))),
    with_roles(Change("one reference instead of two", _without("style", references=["before"]))),
    with_roles(setting("hardware.encode_batch_size", 1)),
    with_roles(Change("other weights of the VAE", _other_weights("vae"))),
)


ELSEWHERE = {  # parameters without a line, each with the reason
    "model.type": "another family has other rows for everything",
    "data.train_path": "another dataset: what its contents give",
    "data.datasets": "as the folders that it lists",
    "data.caption_extension": "as the captions that it finds",
    "data.captions.columns": "of metadata tables: as the captions that it finds",
    "data.ignore_columns": "of metadata tables: changes no row",
    "data.references": "as the pictures that it adds",
    "data.mask": "as the pictures that it adds",
    "data.condition": "as the pictures that it adds",
    "data.captions.min_trigger_fraction": "a threshold, as those above it",
}


def row(change: Change) -> list[str]:
    """Return what a change does: a cell a stage, "" where it does not run."""
    before = baseline(change.has_roles)
    with world(change.has_roles) as made:
        change.do(made)
        after = made.run()
    cells = []
    for stage in STAGES:
        if not runs(stage, before, after, change.code):
            cells.append("")
        elif stage in after.rows:
            wanted = after.rows[stage]
            cells.append(f"{len(wanted - before.rows[stage])} of {len(wanted)} rows")
        else:
            cells.append("runs")
    return cells


def lines() -> Iterator[str]:
    """Yield the table, line by line."""
    yield "| change | " + " | ".join(STAGES) + " |"
    yield "|---" * (1 + len(STAGES)) + "|"
    for change in CHANGES:
        yield f"| {change.name} | " + " | ".join(row(change)) + " |"


def untouched() -> list[str]:
    """List the parameters that no stage before training reads."""
    readers = [key for stage in STAGES[:-1] for key in GRAPH[stage]["params"]]
    tree = document.load(ROOT / "params.yaml")
    return [key for key in leaves(tree) if not any(covers(reader, key) for reader in readers)]


def leaves(tree: Any, prefix: str = "") -> list[str]:
    """List the dotted keys of a tree's values."""
    if not isinstance(tree, Mapping) or not tree:
        return [prefix]
    return [leaf for k, v in tree.items() for leaf in leaves(v, f"{prefix}.{k}" if prefix else k)]


def covers(reader: str, key: str) -> bool:
    """Tell whether reading `reader`, a key or section, reads `key`."""
    return key == reader or key.startswith(reader + ".")


def main() -> None:
    """Write the table into its document, between the marks."""
    head, _, rest = TABLE.read_text().partition("<!-- table -->\n")
    _, _, tail = rest.partition("<!-- end -->")
    table = "\n".join(lines())
    TABLE.write_text(f"{head}<!-- table -->\n{table}\n<!-- end -->{tail}")


if __name__ == "__main__":
    main()
