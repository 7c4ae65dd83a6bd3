"""Predict what the experiment needs from its tables and its base, and refuse what cannot fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages import predictions
from stages.artifacts import read_table, write_text
from stages.base_record import read_record
from stages.class_images import FOLDER
from stages.delivery import check_destination
from stages.needs import Asked
from stages.params.editing import Fill
from stages.params.hardware import Hardware
from stages.params.methods import Controlnet, Dreambooth, FullFinetune, Lora
from stages.params.optimizer import Ema, Optimizer
from stages.params.outputs import Export
from stages.params.read import key
from stages.params.training import BatchSize, Checkpoint, Validation
from stages.preflight.advice import refusals, warnings
from stages.preflight.asking import ask
from stages.preflight.disk import disks_of, items_of
from stages.preflight.encoding import rows_to_encode
from stages.preflight.memory import rooms_of
from stages.preflight.micro_batches import Kind, kinds_of
from stages.preflight.prediction import Prediction
from stages.preflight.time import Duration, Length, duration_of, length_of
from stages.rows.location import store_root
from stages.store import expected
from stages.tokenizers import open_tokenizers

OVERRULE = "hardware.preflight"


@dataclass(frozen=True)
class Params:
    """What memory, disk and time depend on; learning rates and the like are not here."""

    family: str = key("model.type")
    dtype: str = key("model.dtype")
    train_path: str = key("data.train_path")
    cache_latents: bool = key("data.cache_latents")
    hardware: Hardware = key("hardware")
    method: str = key("training.method")
    base_quantization: str | None = key("training.base_quantization")
    editing: str | None = key("training.editing")
    fill: Fill | None = key("training.fill")
    epochs: int | None = key("training.epochs")
    steps: int | None = key("training.steps")
    batch_size: int = key("training.batch_size")
    batch_sizes: list[BatchSize] = key("training.batch_sizes")
    accumulation: int = key("training.gradient_accumulation")
    optimizer: Optimizer = key("training.optimizer")
    max_grad_norm: float | None = key("training.max_grad_norm")
    guidance: float = key("training.objective.guidance")
    ema: Ema | None = key("training.ema")
    validation: Validation = key("training.validation")
    checkpoint: Checkpoint = key("training.checkpoint")
    full_finetune: FullFinetune | None = key("training.full_finetune")
    lora: Lora | None = key("training.lora")
    dreambooth: Dreambooth | None = key("training.dreambooth")
    controlnet: Controlnet | None = key("training.controlnet")
    export: Export = key("export")
    output_dir: str = key("experiment.output_dir", tracked=False)
    store: str | None = key("data.store", tracked=False)


@dataclass(frozen=True)
class Artifacts:
    """The prepared data and the base in; a constant out, so that what follows runs for no edit."""

    params: Path = Path("params.yaml")
    buckets: Path = Path("data/buckets.parquet")
    captions: Path = Path("data/captions.parquet")
    conditions: Path = Path("data/conditions.parquet")
    class_images: Path = FOLDER
    base: Path = Path("data/base")
    passed: Path = Path("data/preflight_ok.txt")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Predict, say it, keep it beside the row store, and pass or refuse.

    Raises:
        ValueError: The machine has too little memory, or a disk too little room; or the folder for
            the export holds files of others, which would be found when all is trained.
    """
    check_destination(Path(params.output_dir))
    root = store_root(params.store)
    prediction = predict(params, artifacts, root)
    say(prediction.lines())
    predictions.write(
        root, prediction.needs.parameters, predictions.PREDICTED, prediction.numbers()
    )
    judge(prediction, params.hardware)
    write_text(artifacts.passed, "the experiment passed its pre-flight\n")


def predict(params: Params, artifacts: Artifacts, root: str) -> Prediction:
    """Ask the trainer, and set what it says against the data."""
    kinds = kinds_of(read_table(artifacts.buckets, "buckets").to_pylist(), params)
    tokenizers = open_tokenizers(params.family, read_record(artifacts.base / "tokenizer.json"))
    rows = rows_to_encode(stored(params), root)
    asked = Asked(
        params=str(artifacts.params),
        batches=[kind.sizes for kind in kinds],
        lengths=tokenizers.lengths,
        records=str(artifacts.base),
        live_batch=None if params.cache_latents else params.hardware.encode_batch_size,
        encoding=rows.calls(),
    )
    needs = ask(asked)
    items = items_of(
        needs,
        rows.num_bytes(needs.text_row),
        params.checkpoint,
        params.export,
        root,
        Path(params.output_dir),
        artifacts.base,
    )
    length = length_with(params, kinds)
    duration: Duration | None = None
    if needs.seconds is not None:
        duration = duration_of(kinds, length, needs.seconds)
    return Prediction(needs, params.hardware.processes, disks_of(items), rows, length, duration)


def stored(params: Params) -> expected.Params:
    """Return what the rows of this experiment depend on."""
    return expected.Params(
        family=params.family,
        dtype=params.dtype,
        batch_size=params.hardware.encode_batch_size,
        threads=params.hardware.threads,
        train_path=params.train_path,
        store=params.store,
    )


def length_with(params: Params, kinds: Sequence[Kind]) -> Length:
    """Count what a training with these parameters does."""
    dreambooth = params.dreambooth
    return length_of(
        kinds,
        steps=params.steps,
        epochs=params.epochs,
        accumulation=params.accumulation,
        has_prior=dreambooth is not None and dreambooth.prior != "none",
        processes=params.hardware.processes,
        validate_every=params.validation.every,
        times=len(params.validation.timesteps),
    )


def judge(prediction: Prediction, hardware: Hardware) -> None:
    """Warn of what is tight now, and refuse what cannot fit unless that is overruled.

    Raises:
        ValueError: Something cannot fit.
    """
    needs, processes = prediction.needs, prediction.processes
    say(f"warning: {line}" for line in warnings(rooms_of(needs, processes)))
    refused = list(refusals(needs, processes, prediction.disks))
    if not refused:
        return
    if hardware.preflight == "warn":
        say(f"warning: {line}" for line in refused)
        return
    raise ValueError(f"{'; '.join(refused)}; or try it with {OVERRULE}: warn")


def say(lines: Iterable[str]) -> None:
    """Print lines as this stage's."""
    for line in lines:
        print(f"preflight: {line}", flush=True)  # noqa: T201
