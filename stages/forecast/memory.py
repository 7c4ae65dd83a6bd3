"""The memory of a training, by running one of its steps with tensors that have no values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from modelzoo.adapters.adapter import has_adapters
from modelzoo.autoencoders import Autoencoder, init_autoencoder
from modelzoo.quantised.linear import QuantisedLinear
from modelzoo.quantised.load import put_packed
from stages.forecast.base import Base
from stages.forecast.batch import Rows, batch_of, rows_of
from stages.forecast.late import refuse_what_training_would
from stages.forecast.live import LiveBytes, freed_gradients, stored_bytes, without_values
from stages.forecast.start import refuse_other_lora, without_lora
from stages.forecast.text import bare_text
from stages.needs import Asked, Memory, MicroBatch
from stages.params.optimizer import Optimizer
from stages.params.training import Training
from stages.train.batches import Batch
from stages.train.editing import RandomFill, editing_of, fitting
from stages.train.method import Method
from stages.train.methods import METHODS
from stages.train.model import Model
from stages.train.objectives import OBJECTIVES
from stages.train.offload import frozen_weights, spread
from stages.train.optimizers import slot_bytes
from stages.train.peers import Peers
from stages.train.stage import Artifacts, Params, assemble, choose
from stages.train.state import TrainState


@dataclass(frozen=True)
class Measured:
    """What building a training and one step of it show."""

    memory: Memory
    num_parameters: int
    num_trainable: int
    checkpoint: Mapping[str, int]  # bytes of each file
    outcome: int  # bytes of what is kept
    is_adapter: bool
    is_controlnet: bool
    away: int  # bytes of frozen weights in the CPU's memory
    denoiser: int  # bytes
    rows: Rows


def method_of(params: Params, base: Base) -> Method:
    """Make the method that the parameters name."""
    settings = params.training
    objective = choose(OBJECTIVES, "training.objective.type", settings.objective.type)(
        settings.objective, base.scheduler
    )
    return choose(METHODS, "training.method", settings.method)(objective, settings, params.seed)


def measure(params: Params, base: Base, asked: Asked) -> Measured:
    """Build the training and run the step that needs the most memory; nothing is allocated.

    Raises:
        ValueError: Such a training cannot be built.
    """
    bare = without_lora(params)
    method = method_of(bare, base)
    with torch.device("meta"):
        model, rows = bare_model(bare, base, asked, method)
        autoencoder = bare_autoencoder(base, params.dtype)
    refuse_other_lora(model, params)
    refuse_what_training_would(model, params, asked)
    with without_values():
        state = fake_state(model, params, method)
        batch = batch_of(asked.batches[0], rows, model.denoiser).to(state.device)
        memory = memory_of_step(state, method, batch, params.training)
        if asked.live_batch is not None:
            memory = encoding_beside(memory, autoencoder, asked.live_batch, asked.batches[0])
        checkpoint, networks = state.checkpoint_bytes(), networks_of(model)
        if params.sharding == "full":
            memory = divided(memory, params.processes, block_bytes(model))
        away = away_bytes(model, params.offload_blocks)
        is_adapter = has_adapters(state.network)
        return Measured(
            memory=replace(memory, weights=memory.weights - away),
            num_parameters=sum(map(num_weights, networks)),
            num_trainable=sum(p.numel() for p in state.trainable.values()),
            checkpoint=checkpoint,
            outcome=checkpoint["weights"]
            if is_adapter
            else stored_bytes(state.network.state_dict()),
            is_adapter=is_adapter,
            is_controlnet=model.controlnet is not None,
            away=away,
            denoiser=stored_bytes(model.denoiser.network.state_dict()),
            rows=rows,
        )


def memory_of_step(state: TrainState, method: Method, batch: Batch, settings: Training) -> Memory:
    """Return what a process has when a step, that is not the first, has the most."""
    trainable = state.trainable
    frees = freed_gradients(trainable.values()) if settings.optimizer.fused_backward else None
    with LiveBytes() as live, frees or nullcontext():
        if settings.gradient_accumulation > 1:  # as the micro-batches before have left them
            for p in trainable.values():
                p.grad = torch.zeros_like(p)
        state.backward(method.losses(state.model, batch).sum())
    gradients = stored_bytes({name: p.grad for name, p in trainable.items() if p.grad is not None})
    return Memory(
        weights=stored_bytes(tensors_of(networks_of(state.model))),
        gradients=gradients,
        activations=max(0, live.most - gradients),
        slots=state.slot_bytes,
        average=stored_bytes({} if state.ema is None else state.ema.average),
    )


def bare_autoencoder(base: Base, dtype: str) -> Autoencoder:
    """Build the autoencoder; on the device "meta" it has no values."""
    autoencoder = init_autoencoder(base.autoencoder, 0).eval().requires_grad_(False)
    return autoencoder.to(getattr(torch, dtype))


def encoding_beside(
    memory: Memory, autoencoder: Autoencoder, num: int, largest: MicroBatch
) -> Memory:
    """Add the autoencoder with which another thread encodes the next pictures meanwhile.

    A call has `num` pictures on a CPU, and on a GPU no more than a micro-batch; in a fake mode.
    """
    device = Accelerator().device
    place(autoencoder, device)
    num = num if device.type == "cpu" else min(num, largest.size)
    dtype = next(autoencoder.parameters()).dtype
    with LiveBytes() as live, torch.no_grad():
        pictures = torch.empty(num, 3, largest.height, largest.width, dtype=dtype, device=device)
        autoencoder.encode_rows(pictures)
    return replace(
        memory,
        weights=memory.weights + stored_bytes(tensors_of([autoencoder])),
        activations=memory.activations + live.most,
    )


def divided(memory: Memory, num: int, blocks: Sequence[int]) -> Memory:
    """Return what each of `num` processes has of weights that are divided among them.

    Two blocks (of so many bytes each) are whole at once, the one that computes and the one that
    follows, as is what surrounds them; and the gradient of one.
    """
    largest, around = max(blocks), memory.weights - sum(blocks)
    return Memory(
        weights=memory.weights // num + 2 * largest + around,
        gradients=memory.gradients // num + largest,
        activations=memory.activations,
        slots=memory.slots // num,
        average=memory.average // num,
    )


def block_bytes(model: Model) -> list[int]:
    """Return the bytes of each block's weights."""
    return [stored_bytes(tensors_of([block])) for block in model.denoiser.blocks()]


def bare_model(params: Params, base: Base, asked: Asked, method: Method) -> tuple[Model, Rows]:
    """Build what a step computes with, as training does, on the device where nothing is."""
    settings = params.training
    dtype: torch.dtype = getattr(torch, params.dtype)
    denoiser = base.kind.denoiser(base.kind.denoiser.NETWORK(base.denoiser).to(dtype))
    rows = rows_of(params, base, asked.lengths, denoiser)
    if (kind := settings.base_quantization) is not None:
        denoiser.network.whole_weights = denoiser.network.state_dict()  # type: ignore[assignment]
        for layer in put_packed(denoiser, kind).values():
            layer.take(torch.empty(layer.shape))
    model = method.build(fitting(denoiser, settings, rows.factor))
    if settings.draws_masks:
        model.editing = RandomFill(bare_autoencoder(base, params.dtype), params.seed)
    else:
        nowhere = Artifacts().manifests.vae
        model.editing = editing_of(settings, params.seed, nowhere, dtype, torch.device("meta"))
    model.text = bare_text(params, asked, model)
    return model, rows


def fake_state(model: Model, params: Params, method: Method) -> TrainState:
    """Prepare a model of nothing as training does, as if it were on the device; in a fake mode."""
    accelerator = Accelerator(mixed_precision=params.mixed_precision, device_placement=False)
    for network in networks_of(model):
        place(network, accelerator.device)
    if model.text is not None:
        model.text = accelerator.prepare_model(model.text, evaluation_mode=True)
    # what steps at once, compiles, moves or divides weights would do so here too, and an optimizer
    # of 8 bits reads the values of its tables when it is made
    training = replace(params.training, optimizer=Optimizer())
    bare = replace(
        params, training=training, compile=False, offload_blocks=0, sharding="none", processes=1
    )
    state = assemble(model, method, bare, Peers(), accelerator)
    for module in [m for network in networks_of(model) for m in network.modules()]:
        if hasattr(module, "module_dropout"):  # peft's LoKr and LoHa: they draw whether they count
            module.training = False
    state.slot_bytes = slot_bytes(state.trainable, params.training.optimizer)
    return state


def away_bytes(model: Model, num_blocks: int) -> int:
    """Return the bytes of weights that are elsewhere while two of the offloaded blocks are here."""
    sizes = sorted(
        sum(weight.away.nbytes for weight in frozen_weights(block))
        for block in spread(model.denoiser.blocks(), num_blocks)
    )
    return sum(sizes[:-2])


def place(network: nn.Module, device: torch.device) -> None:
    """Put tensors on `device` in place of those of a network; `Module.to` cannot, of fake ones."""
    placed: dict[int, Tensor] = {}  # shared ones stay shared
    for module in network.modules():
        for name, p in module._parameters.items():
            if p is not None and id(p) not in placed:
                values = torch.empty_like(p, device=device)
                placed[id(p)] = nn.Parameter(values, p.requires_grad)
            if p is not None:
                module._parameters[name] = placed[id(p)]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                fresh = placed.setdefault(id(buffer), torch.empty_like(buffer, device=device))
                module._buffers[name] = fresh


def networks_of(model: Model) -> list[nn.Module]:
    """List the networks that are in memory."""
    networks = [model.learner, model.denoiser.network]
    networks += [] if model.frozen is None else [model.frozen.network]
    networks += [] if model.text is None else [model.text]
    networks += [model.editing.autoencoder] if isinstance(model.editing, RandomFill) else []
    return list({id(network): network for network in networks}.values())


def num_weights(network: nn.Module) -> int:
    """Return how many weights a network has, whether they are packed or not."""
    packed = [m.shape.numel() for m in network.modules() if isinstance(m, QuantisedLinear)]
    return sum(packed) + sum(p.numel() for p in network.parameters())


def tensors_of(networks: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return the parameters and buffers of networks."""
    return {
        f"{place}.{name}": tensor
        for place, network in enumerate(networks)
        for part in (network.named_parameters(), network.named_buffers())
        for name, tensor in part
    }
