"""Add adapters to a network, in place, and say how strongly they count."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from modelzoo.adapters import targets
from modelzoo.adapters.library import kinds, peft

NAME = "default"  # peft's name of the one adapter
PREFIXES = ("lora_", "lokr_", "hada_")  # how the names of peft's parameters begin
RANK_KEY, TARGET_KEY = "training.lora.rank_pattern", "training.lora.target_modules"
TEXT_TARGET_KEY = "training.lora.text_target_modules"


@dataclass(frozen=True)
class Adapter:
    """What is added to each chosen layer: W x + scale * D x, where D has few parameters.

    Attributes:
        kind: "lora": D = B A (Hu et al. 2022); "lokr": a Kronecker product, "loha": a Hadamard
            product of two low-rank ones (Yeh et al. 2024, LyCORIS, sections 3.2 and 3.3).
        rank: Inner width of D.
        alpha: The scale is alpha / rank, or alpha / sqrt(rank) with `use_rslora`.
        dropout: Of the input of A.
        use_rslora: Rank-stabilised scale (Kalajdzievski 2023, eq. 5).
        use_dora: Learn the length of each row of W + D beside it (Liu et al. 2024, eq. 5).
        ranks: Other ranks, by patterns of `targets.choose`; the first that fits counts.
        alphas: Other alphas, in the same way.
    """

    kind: str = "lora"
    rank: int = 32
    alpha: float = 32.0
    dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def config(self, target_modules: str) -> Any:
        """Write it as peft's configuration, for layers that a regular expression names."""
        shared: dict[str, Any] = {
            "r": self.rank,
            "target_modules": target_modules,
            "rank_pattern": dict(self.ranks),
            "alpha_pattern": dict(self.alphas),
        }
        alpha: Any = self.alpha  # peft takes any number, whatever it declares
        if self.kind == "lokr":
            return kinds()["LOKR"](**shared, alpha=alpha)
        if self.kind == "loha":
            return kinds()["LOHA"](**shared, alpha=alpha)
        return kinds()["LORA"](
            **shared,
            lora_alpha=alpha,
            lora_dropout=self.dropout,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
        )

    @property
    def patterns(self) -> list[str]:
        """List the patterns of ranks and alphas."""
        return [*{**self.ranks, **self.alphas}]

    def fitting(self, names: Sequence[str]) -> Adapter:
        """Leave out the ranks and alphas whose patterns fit none of the names."""
        fit = {p for p in self.patterns if any(targets.fits(p, name, RANK_KEY) for name in names)}
        ranks = {pattern: rank for pattern, rank in self.ranks.items() if pattern in fit}
        alphas = {pattern: alpha for pattern, alpha in self.alphas.items() if pattern in fit}
        return replace(self, ranks=ranks, alphas=alphas)


def add_adapters(
    network: nn.Module,
    adapter: Adapter,
    patterns: list[str],
    seed: int,
    *,
    key: str = TARGET_KEY,
    prefix: str = "",
    is_alone: bool = True,
) -> None:
    """Freeze a network and add adapters in float32 that change nothing yet.

    The first values of each layer's adapter depend on the seed and the layer's name alone.

    Args:
        network: Whose layers get adapters.
        adapter: What they are.
        patterns: Of its layers' names.
        seed: Of the first values.
        key: Whence the patterns come, for errors.
        prefix: Of the layers' names, where several networks have adapters.
        is_alone: Whether each pattern of ranks must fit a layer of this very network.

    Raises:
        ValueError: A pattern fits no layer.
    """
    names = list(targets.layers(network))
    chosen = targets.choose(names, patterns, key)
    if is_alone:
        targets.choose(chosen, adapter.patterns, RANK_KEY)
    adapter = adapter.fitting(chosen)
    every = [name for name, _ in network.named_modules()]
    inject(network, adapter.config(targets.exact(chosen, every)))
    for name, layer in adapted(network).items():
        _draw(layer, f"{seed}/{prefix}{name}")


def inject(network: nn.Module, config: Any) -> None:
    """Add the adapters of a peft configuration, with values that depend on nothing else."""
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.default_generator.manual_seed(0)
        warnings.filterwarnings("ignore", "`target_modules` .*regex")
        peft().inject_adapter_in_model(config, network, NAME)
    for parameter in adapter_parameters(network).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def config_of(network: nn.Module) -> Any:
    """Give peft's configuration of a network's adapters."""
    return network.peft_config[NAME]  # type: ignore[index]


def has_adapters(network: nn.Module) -> bool:
    """Tell whether adapters were added; this alone does not load peft."""
    return hasattr(network, "peft_config")


def adapted(network: nn.Module) -> dict[str, Any]:
    """Give the layers that have an adapter, by the name that they have without it."""
    tuned = peft().tuners.tuners_utils.BaseTunerLayer
    return {name: module for name, module in network.named_modules() if isinstance(module, tuned)}


def adapter_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Give the parameters of all adapters, by peft's names in files: `x.to_q.lora_A.weight`."""
    return {
        f"{name}.{_in_files(own)}": parameter
        for name, layer in adapted(network).items()
        for own, parameter in layer.named_parameters()
        if own.startswith(PREFIXES)
    }


@contextmanager
def without_adapters(network: nn.Module) -> Iterator[None]:
    """Let the network compute as its frozen base does, bit for bit."""
    layers = adapted(network).values()
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def scale_adapters(network: nn.Module, scale: float) -> None:
    """Let the adapters count `scale` times as much as they were trained to; 0 is the base exactly.

    With DoRA the scale is that of D alone, so that 0 leaves the learned lengths.
    """
    for layer in adapted(network).values():
        if scale == 0:
            layer._disable_adapters = True
            continue
        layer._disable_adapters = False
        layer.set_scale(NAME, scale)


def merge_adapters(network: nn.Module) -> None:
    """Add what the adapters do to the weights of their layers, and take them out.

    Raises:
        ValueError: A merged weight is not finite, or the base is quantised.
    """
    for name, layer in adapted(network).items():
        if not isinstance(layer.get_base_layer().weight, nn.Parameter):
            raise ValueError(f"{name} is quantised: merge adapters into the whole weights")
        with torch.no_grad():
            layer.merge(safe_merge=True)
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, layer.get_base_layer())


def _in_files(own: str) -> str:
    """Give the name in files of a parameter `lora_A.default.weight` of a layer."""
    return own.replace(f".{NAME}", "").replace("magnitude_vector.weight", "magnitude_vector")


def _draw(layer: Any, purpose: str) -> None:
    """Draw the first values by peft's own rule of the kind: D is zero."""
    digest = hashlib.blake2b(purpose.encode(), digest_size=8).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest, "big") >> 1)
        if hasattr(layer, "reset_lora_parameters"):
            layer.reset_lora_parameters(NAME, True)
        else:
            layer.reset_adapter_parameters(NAME)
