"""How weights that learn are held: whole in every process, or a part in each (torch's FSDP2)."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from stages.randomness import generator
from stages.train.ema import swapped
from stages.train.model import Model
from stages.train.peers import Peers

Tensors = Mapping[str, Tensor]  # by a parameter's name, or that and the name of a slot


class Whole:
    """Each process has all weights, whose gradients are added up before a step."""

    def __init__(self, trainable: Mapping[str, nn.Parameter], peers: Peers) -> None:
        """Take the parameters that learn, with their names."""
        self.trainable, self.peers = trainable, peers

    @property
    def num_parameters(self) -> int:
        """Elements that learn, in all processes together."""
        return sum(p.numel() for p in self.trainable.values())

    def add_gradients(self) -> None:
        """Give each parameter the sum of its gradients over the processes."""
        self.peers.add_gradients(self.trainable.values())

    def clip_gradients(self, accelerator: Accelerator, max_norm: float) -> Tensor:
        """Shorten the gradient to `max_norm`; return the length it had, ()."""
        norm = accelerator.clip_grad_norm_(self.trainable.values(), max_norm)
        assert norm is not None
        return norm

    def swapped(self, weights: Tensors) -> AbstractContextManager[None]:
        """Let the model compute with other weights for a while."""
        return swapped(self.trainable, weights)

    def joined(self, tensors: Tensors) -> Tensors:
        """Return whole tensors of what is like the weights."""
        return tensors

    def own(self, tensors: Tensors) -> Tensors:
        """Undo `joined`."""
        return tensors

    def num_bytes(self, tensors: Tensors) -> int:
        """Return the size of what `joined` would give."""
        return sum(tensor.nbytes for tensor in tensors.values())

    def whole_model(self, model: Model) -> Model:
        """Return a model that can be written."""
        return model


class Shards:
    """Each process has its rows of every weight, of its gradient and of what is made like it.

    What optimizers, averages and checkpoints see are plain tensors that share the memory of
    FSDP's. An optimizer must therefore treat every element alike, whatever its neighbours.
    """

    def __init__(
        self,
        network: nn.Module,
        blocks: Sequence[nn.Module],
        names: Sequence[str],
        device: torch.device,
        peers: Peers,
    ) -> None:
        """Divide a network, which all processes have alike.

        Args:
            network: What learns; it is changed.
            blocks: Those of its modules that become whole one by one.
            names: Of the parameters that learn.
            device: Of this process.
            peers: The processes that it is divided among.
        """
        self.peers = peers
        self._bare = without_weights(network)
        divide(network, blocks, device, peers.num)
        named = dict(network.named_parameters())
        self._parts = {name: _divided(named[name]) for name in names}
        self.trainable = {
            name: nn.Parameter(_local(part.detach())) for name, part in self._parts.items()
        }

    @property
    def num_parameters(self) -> int:
        """Elements that learn, in all processes together."""
        return sum(part.numel() for part in self._parts.values())

    def own_seed(self, seed: int) -> int:
        """Return the seed of what is drawn for this process's rows alone."""
        return int(generator(seed, "shards", self.peers.rank).integers(2**63))

    def add_gradients(self) -> None:
        """Hand over the gradients, which FSDP has added up and divided in each backward pass."""
        for name, part in self._parts.items():
            self.trainable[name].grad = None if part.grad is None else _local(part.grad)
            part.grad = None

    def clip_gradients(self, accelerator: Accelerator, max_norm: float) -> Tensor:
        """Shorten the gradient to `max_norm`; return the length it had, ()."""
        own = get_total_norm([p.grad for p in self.trainable.values() if p.grad is not None])
        norm = self.peers.add(own.float().square()).sqrt()
        clip_grads_with_norm_(self.trainable.values(), max_norm, norm)
        return norm

    @contextmanager
    def swapped(self, weights: Tensors) -> Iterator[None]:
        """Let the model compute with other weights for a while; FSDP reads them where they are."""
        trained = {name: p.detach().clone() for name, p in self.trainable.items()}
        try:
            self._fill(weights)
            yield
        finally:
            self._fill(trained)

    @torch.no_grad()
    def _fill(self, weights: Tensors) -> None:
        for name, p in self.trainable.items():
            p.copy_(weights[name])

    def joined(self, tensors: Tensors) -> Tensors:
        """Return whole tensors in the first process's memory, and nothing in the others.

        All processes must call this with tensors of the same names.
        """
        found = {}
        for key, tensor in tensors.items():
            whole = self._join(tensor, self._of(key)) if self._is_divided(key, tensor) else tensor
            if self.peers.is_first:
                found[key] = whole.cpu()
        return found

    def own(self, tensors: Tensors) -> Tensors:
        """Return this process's rows of whole tensors."""
        return {
            key: _rows(tensor, self.peers) if tensor.shape == self._of(key).shape else tensor
            for key, tensor in tensors.items()
        }

    def num_bytes(self, tensors: Tensors) -> int:
        """Return the size of what `joined` would give to the first process."""
        return sum(
            tensor.element_size()
            * (self._of(key) if self._is_divided(key, tensor) else tensor).numel()
            for key, tensor in tensors.items()
        )

    def whole_model(self, model: Model) -> Model:
        """Return a model that can be written, in the first process; all must call this."""
        whole = {}
        for name, tensor in model.learner.state_dict().items():
            with self.peers.noticing():
                full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.peers.is_first:
                whole[name] = full.cpu()
        if not self.peers.is_first:
            return model
        self._bare.load_state_dict(whole, assign=True)
        return replace(model, denoiser=type(model.denoiser)(self._bare))

    def _of(self, key: str) -> DTensor:
        """Return the parameter that a tensor belongs to."""
        return self._parts[key if key in self._parts else key.rpartition(".")[0]]

    def _is_divided(self, key: str, tensor: Tensor) -> bool:
        """Tell what is like a parameter from what its rows share, such as a count of steps."""
        return tensor.shape == self._of(key).to_local().shape

    def _join(self, tensor: Tensor, part: DTensor) -> Tensor:
        """Return all rows of what is like `part`."""
        is_int16 = tensor.dtype == torch.int16  # which no backend sends
        sent = tensor.view(torch.float16) if is_int16 else tensor
        with self.peers.noticing():
            whole = DTensor.from_local(
                sent.detach(),
                part.device_mesh,
                part.placements,
                run_check=False,
                shape=part.shape,
                stride=part.stride(),
            ).full_tensor()
        return whole.view(tensor.dtype)


def divide(network: nn.Module, blocks: Sequence[nn.Module], device: torch.device, num: int) -> None:
    """Divide the weights of each block, and those around them, by rows among `num` processes.

    A block's weights are whole while it computes, forward and backward, and no longer: whoever
    changes the rows changes what the next pass computes with. Gradients are sums, as without.
    """
    # It warns of changing a network's output in place, which nothing here does.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (num,))
    for module in (*blocks, network):
        part = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)


def without_weights(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose tensors have no memory."""
    tensors: dict[int, Tensor] = {id(buffer): buffer.to("meta") for buffer in network.buffers()}
    for p in network.parameters():
        tensors[id(p)] = nn.Parameter(p.detach().to("meta"), p.requires_grad)
    return copy.deepcopy(network, tensors)


def _divided(p: nn.Parameter) -> DTensor:
    assert isinstance(p, DTensor)
    return p


def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.to_local()


def _rows(tensor: Tensor, peers: Peers) -> Tensor:
    """Return this process's rows of a whole tensor, as FSDP divides them; it may have none."""
    num = math.ceil(len(tensor) / peers.num)
    return tensor[num * peers.rank : num * (peers.rank + 1)]
