"""Predict for a configuration whose data or base need not be here: by the sizes that it names."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzoo.text_encoders import TEXT_PARTS, text_lengths
from stages.batch_sizes import batch_size_of
from stages.needs import Asked, MicroBatch, Needs
from stages.params import compose, schema
from stages.params.config import Config
from stages.params.model import Model
from stages.params.resolve import settled
from stages.params.use import dump
from stages.preflight.asking import ask
from stages.preflight.disk import disks_of, items_of
from stages.preflight.prediction import Prediction
from stages.rows.location import store_root

EXPERIMENTS, PRESETS = Path("params/experiments"), Path("params/models")
BASES = Path("data/bases")  # what an experiment of that name has exported
PARTS = ("transformer", "unet", "vae", "text_encoder")  # of the section `model`: sizes


@dataclass(frozen=True)
class Sizes:
    """Where the sizes of a base are from.

    Attributes:
        folder: of the base in the diffusers layout; None: it is not here.
        section: `model`, whose sizes count then.
        note: what to say of it; "" for nothing.
    """

    folder: str | None
    section: dict[str, Any]
    note: str


def predict_experiment(
    path: Path,
    overrides: Sequence[str] = (),
    device_bytes: int | None = None,
    ask: Callable[[Asked], Needs] = ask,
) -> tuple[Prediction, list[str]]:
    """Predict memory and disk of a configuration, and say what is not known.

    Raises:
        FileNotFoundError: The configuration is not there.
        ValueError: It is wrong, or nothing says how large its base is.
    """
    config = settled(path, overrides)
    sizes = sizes_of(config.model)
    with tempfile.TemporaryDirectory(prefix="diffbase-") as folder:
        resolved = Path(folder) / "params.yaml"
        resolved.write_text(dump(dataclasses.asdict(config)), encoding="utf-8")
        asked = Asked(
            params=str(resolved),
            batches=[largest(config)],
            lengths=lengths_of(sizes.section),
            folder=sizes.folder,
            section=sizes.section,
            device_bytes=device_bytes,
            live_batch=None if config.data.cache_latents else config.hardware.encode_batch_size,
        )
        needs = ask(asked)
    training, root = config.training, store_root(config.data.store)
    output = Path(config.experiment.output_dir)
    items = items_of(needs, None, training.checkpoint, config.export, root, output, None)
    size = largest(config)
    notes = [sizes.note] if sizes.note else []
    notes.append(
        f"micro-batches of {size.size} pictures of {size.width}x{size.height} are assumed; what "
        "encoding and training take is known once the data and the base are prepared"
    )
    prediction = Prediction(needs, config.hardware.processes, disks_of(items))
    return prediction, notes


def largest(config: Config) -> MicroBatch:
    """Return a micro-batch of squares of the largest resolution."""
    side = max([config.data.resolution, *(config.data.resolutions or ())])
    training = config.training
    num = batch_size_of(side, side, training.batch_size, training.batch_sizes)
    return MicroBatch(side, side, num, [(side, side)] * len(config.data.references))


def lengths_of(section: dict[str, Any]) -> dict[str, int]:
    """Return the tokens of a text for each text encoder of a model, by kind."""
    asked, lengths = text_lengths(section), {}
    named = {kind for kind, sizes in (section.get("text_encoder") or {}).items() if sizes}
    for part in TEXT_PARTS[section["type"]]:
        kind = next((kind for kind in part.kinds if kind in named), part.kinds[0])
        lengths[kind] = asked.get(kind, part.length)
    return lengths


def sizes_of(model: Model) -> Sizes:
    """Find the sizes of a base: its own, those that are given, or those of a preset.

    Raises:
        ValueError: Nothing says them.
    """
    section, place = dataclasses.asdict(model), model.pretrained_path
    if place is not None and Path(place, "model_index.json").is_file():
        return Sizes(place, section, "")
    absent = "" if place is None else f"the base {place!r} is not here: "
    if section["vae"] and (section["transformer"] or section["unet"]):
        note = f"{absent}its sizes are those of the section model" if absent else ""
        return Sizes(None, section, note)
    for candidate in candidates(model):
        other = schema.fill(Config, compose.compose(candidate))["model"]
        if other["type"] == model.type and other["vae"]:
            kept = section | {name: other[name] for name in PARTS}
            return Sizes(None, kept, f"{absent}its sizes are those of {candidate}")
    raise ValueError(
        f"{absent}nothing says its sizes: give model.pretrained_path a folder that is here, or "
        f"take a preset of {PRESETS} into _base_"
    )


def candidates(model: Model) -> Iterator[Path]:
    """List the files that may say the sizes of a base that is not here, the likeliest first."""
    place = Path(model.pretrained_path or "")
    if place.parent == BASES and (made_by := EXPERIMENTS / f"{place.name}.yaml").is_file():
        yield made_by
    for preset in sorted(PRESETS.glob("*.yaml")):
        of_preset = compose.compose(preset)["model"]
        if (of_preset.get("type"), of_preset.get("variant")) == (model.type, model.variant):
            yield preset
