"""Train the denoiser: the list of parts, and the only place where they meet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from modelzoo import families
from modelzoo.denoiser import Denoiser, load_denoiser
from modelzoo.quantised.load import load_quantised
from stages.artifacts import read_json, sha256_text
from stages.base_record import read_record
from stages.launch import use_threads
from stages.params.read import canonical, key
from stages.params.roles import roles_read
from stages.params.tracking import Tracking
from stages.params.training import Training
from stages.rows.location import store_root
from stages.train.bad_steps import BadSteps
from stages.train.batches import Batches
from stages.train.checkpoints import FACTS, LOCK, Checkpoints, checkpoint_folder
from stages.train.compiling import compile_blocks
from stages.train.editing import editing_of, fitting
from stages.train.fingerprint import fingerprint, outcome, parts_of
from stages.train.grids import open_grids
from stages.train.live_latents import opening_of
from stages.train.live_text import TextBase, add_live_text, section_of, with_tokens
from stages.train.lock import held
from stages.train.method import Method
from stages.train.methods import METHODS
from stages.train.model import Model
from stages.train.objectives import OBJECTIVES
from stages.train.offload import offload_blocks
from stages.train.optimizers import create_optimizer, slot_bytes
from stages.train.order import Order
from stages.train.peers import Peers
from stages.train.plan import create_plan, micro_batch_sizes
from stages.train.prior import with_prior
from stages.train.ranks import train_together
from stages.train.resume import refuse_other, starting_point
from stages.train.samples import Manifests, open_samples
from stages.train.sharding import Shards
from stages.train.state import TrainState
from stages.train.trainer import Trainer
from stages.train.validation import Validation

Part = TypeVar("Part")


@dataclass(frozen=True)
class Params:
    """What training reads of params.yaml."""

    name: str = key("experiment.name", tracked=False)
    seed: int = key("experiment.seed")
    resolution: int = key("data.resolution")  # of the items that bear their sample's name
    family: str = key("model.type")
    dtype: str = key("model.dtype")
    training: Training = key("training")
    mixed_precision: str = key("hardware.mixed_precision")
    gradient_checkpointing: bool = key("hardware.gradient_checkpointing")
    compile: bool = key("hardware.compile")
    offload_blocks: int = key("hardware.offload_blocks", tracked=False)  # changes no bit
    threads: int = key("hardware.threads")
    processes: int = key("hardware.processes")
    sharding: str = key("hardware.sharding")
    store: str | None = key("data.store", tracked=False)
    train_path: str = key("data.train_path", tracked=False)  # where pictures are not cached
    background: str = key("data.background", tracked=False)  # likewise, as the two below
    max_pixels: int = key("data.max_pixels", tracked=False)
    decode_workers: int = key("hardware.decode_workers", tracked=False)
    tracking: Tracking = key("tracking", tracked=False)


@dataclass(frozen=True)
class Artifacts:
    """Files in and out."""

    manifests: Manifests = Manifests()
    denoiser: Path = Path("data/base/denoiser.json")
    scheduler: Path = Path("data/base/scheduler.json")
    tokenizer: Path = Path("data/base/tokenizer.json")
    images: Path = Path("data/images.parquet")  # for the dataset's digest in MLflow
    params: Path = Path("params.yaml")  # for the parameters in MLflow
    output: Path = Path("data/train")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Train, as the only trainer of these weights and the only writer of this output.

    Several processes are started here, unless a launcher such as torchrun has started them; those
    started here read params.yaml and the files of `Artifacts()` themselves.
    """
    root = store_root(params.store)
    params = replace(params, store=root)
    output = artifacts.output.resolve()
    name = f"writing-{sha256_text(output.as_posix())[:16]}.lock"
    folder = checkpoint_folder(root, weights_fingerprint(params, artifacts))
    if int(os.environ.get("RANK", "0")):  # another process of this training holds the locks
        create_trainer(params, artifacts).fit()
        return
    with (
        held(folder.parent / name, f"is training into {output}") as writing,
        held(folder / LOCK, "is training the same weights") as lock,
    ):
        if params.processes == 1 or "WORLD_SIZE" in os.environ:
            create_trainer(params, artifacts).fit()
        else:
            train_together(params.processes, params.threads, [writing, lock], folder)


def create_trainer(params: Params, artifacts: Artifacts = Artifacts()) -> Trainer:
    """Put the parts together; nothing is trained or written yet.

    Raises:
        ValueError: A part cannot be made of these parameters and files.
    """
    use_threads(params.threads)
    peers = Peers.meet(params.processes, in_step=params.sharding == "full")
    settings, root = params.training, store_root(params.store)
    parts = parts_of_training(params, artifacts)
    if (start := starting_point(settings.checkpoint.resume_from)) is not None:
        refuse_other(start, parts)
    folder = checkpoint_folder(root, fingerprint(parts))
    roles = roles_read(settings)
    with peers.first():  # missing rows are encoded once
        splits = open_samples(
            artifacts.manifests, params.family, params.resolution, root, roles, opening_of(params)
        )
    if section_of(settings) is not None:
        splits = with_tokens(splits, text_base(params, artifacts))
    scheduler = read_record(artifacts.scheduler).folders["scheduler"] / "scheduler_config.json"
    objective = choose(OBJECTIVES, "training.objective.type", settings.objective.type)(
        settings.objective, read_json(scheduler)
    )
    method = choose(METHODS, "training.method", settings.method)(objective, settings, params.seed)
    order = Order(
        buckets=splits["train"].buckets,
        repeats=splits["train"].repeats,
        batch_sizes=micro_batch_sizes(splits["train"].buckets, settings),
        accumulation=settings.gradient_accumulation,
        seed=params.seed,
        epochs=settings.epochs,
    )
    grids = open_grids(params.tracking.samples, artifacts.params, artifacts.denoiser.parent)
    state = create_state(params, artifacts, method, peers, splits["train"].cell)
    refuse_unread_guidance(settings.objective.guidance, state.model.denoiser)
    batches = Batches(
        samples=splits["train"],
        order=order,
        objective=objective,
        caption_dropout=settings.caption_dropout,
        posterior=settings.posterior,
        seed=params.seed,
        num_tokens=state.model.denoiser.num_tokens,
        peers=peers,
    )
    batches = with_prior(batches, settings.dreambooth)
    return Trainer(
        params=params,
        artifacts=artifacts,
        fingerprint=outcome(fingerprint(parts), settings.checkpoint.use),
        parts=parts,
        parameters=parameters_digest(params),
        state=state,
        method=method,
        batches=batches,
        plan=create_plan(settings, batches.order.num_steps),
        validation=Validation(
            samples=splits["validation"],
            method=method,
            num_images=settings.validation.images,
            times=settings.validation.timesteps,
            batch_sizes=micro_batch_sizes(splits["validation"].buckets, settings),
        ),
        checkpoints=Checkpoints(folder, settings.checkpoint, start),
        grids=grids,
    )


def create_state(
    params: Params, artifacts: Artifacts, method: Method, peers: Peers, cell: int
) -> TrainState:
    """Load the base, whose latent cells have `cell` pixels a side, and prepare it here."""
    accelerator = Accelerator(mixed_precision=params.mixed_precision)
    settings, kind = params.training, families.family(params.family)
    folder = read_record(artifacts.denoiser).folders[kind.folder]
    dtype: torch.dtype = getattr(torch, params.dtype)
    if settings.base_quantization is None:
        base = load_denoiser(kind.denoiser, folder, dtype)
    else:
        base = load_quantised(kind.denoiser, folder, dtype, settings.base_quantization)
    denoiser = fitting(base, settings, cell)
    model = method.build(denoiser)
    model.editing = editing_of(
        settings, params.seed, artifacts.manifests.vae, dtype, accelerator.device
    )
    if (lora := section_of(settings)) is not None:
        text = add_live_text(model, lora, text_base(params, artifacts), dtype, params.seed).train()
        text.checkpoint_layers(params.gradient_checkpointing)
        model.text = accelerator.prepare_model(text, evaluation_mode=True)
    return assemble(model, method, params, peers, accelerator)


def assemble(
    model: Model, method: Method, params: Params, peers: Peers, accelerator: Accelerator
) -> TrainState:
    """Prepare a model that a method has built, and give it an optimizer."""
    settings = params.training
    network = model.learner.train()
    network.gradient_checkpointing = params.gradient_checkpointing  # type: ignore[assignment]
    trainable = dict(method.trainable(model))
    num_bytes = slot_bytes(trainable, settings.optimizer)
    peers.start_alike(trainable.values())
    shards = None
    if params.sharding == "full":
        names, trainable = list(trainable), {}  # lets go of what is to be divided
        shards = Shards(network, model.denoiser.blocks(), names, accelerator.device, peers)
    if params.offload_blocks:
        offload_blocks(model, params.offload_blocks, accelerator.device)
    if params.compile:
        compile_blocks(model, accelerator.device)
    model.learner = accelerator.prepare_model(network, evaluation_mode=True)  # see Peers
    trainable = trainable if shards is None else shards.trainable
    seed = params.seed if shards is None else shards.own_seed(params.seed)
    optimizer = accelerator.prepare_optimizer(create_optimizer(trainable, settings.optimizer, seed))
    if model.controlnet is not None:  # the base is frozen, but computes and passes gradients on
        frozen = model.denoiser.network
        frozen.gradient_checkpointing = params.gradient_checkpointing  # type: ignore[assignment]
        model.denoiser.network = accelerator.prepare_model(frozen, evaluation_mode=True)
    decay = None if settings.ema is None else settings.ema.decay
    state = TrainState(model, network, trainable, optimizer, accelerator, decay, peers, shards)
    state.history.bad = BadSteps(settings.max_bad_steps, settings.explosion_factor)
    state.slot_bytes = num_bytes
    return state


def text_base(params: Params, artifacts: Artifacts) -> TextBase:
    """Name what of the base encodes text."""
    return TextBase(params.family, artifacts.manifests.text_encoder, artifacts.tokenizer)


def refuse_unread_guidance(guidance: float, denoiser: Denoiser) -> None:
    """Raise ValueError where the objective names a guidance and the base embeds none."""
    if guidance != 1 and not denoiser.embeds_guidance:
        raise ValueError(
            f"params.yaml: training.objective.guidance: {guidance:g} given, but this base embeds "
            "no guidance: set 1"
        )


def weights_fingerprint(params: Params, artifacts: Artifacts = Artifacts()) -> str:
    """Return the fingerprint of the weights that these parameters and files lead to."""
    return fingerprint(parts_of_training(params, artifacts))


def parts_of_training(params: Params, artifacts: Artifacts) -> dict[str, Any]:
    """Name what the weights depend on."""
    manifests = artifacts.manifests
    start = starting_point(params.training.checkpoint.resume_from)
    return parts_of(
        tables=[manifests.latents, manifests.prompts, manifests.captions],
        base=[artifacts.denoiser, artifacts.scheduler],
        training=params.training,
        settings=settings_of(params),
        start=start and start / FACTS,
        opens_pictures=manifests.drawn is not None,
    )


def settings_of(params: Params) -> dict[str, Any]:
    """Return what changes the weights' bits beside the section `training`, by its key."""
    return {
        "experiment.seed": params.seed,
        "data.resolution": params.resolution,
        "model.type": params.family,
        "model.dtype": params.dtype,
        "hardware.mixed_precision": params.mixed_precision,
        "hardware.compile": params.compile,
        "hardware.gradient_checkpointing": params.gradient_checkpointing,
        "hardware.threads": params.threads,
        "hardware.processes": params.processes,
        "hardware.sharding": params.sharding,
    }


def parameters_digest(params: Params) -> str:
    """Hash the parameters of a training, by which its pre-flight is found again."""
    return fingerprint({"training": canonical(params.training), **settings_of(params)})


def choose(registry: Mapping[str, Part], name: str, given: str) -> Part:
    """Look a part up by the name that params.yaml gives it."""
    if given not in registry:
        raise ValueError(
            f"params.yaml: {name}: {given!r} is not available; use one of {sorted(registry)}"
        )
    return registry[given]
