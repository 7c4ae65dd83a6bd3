"""How many bytes of tensors live at once."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import _lru_cache_wrapper, cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.common_utils import get_untyped_storages
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all storages that operations make while it is on.

    torch's own MemTracker does this by module too, for which it hooks into each of them.

    Attributes:
        now: bytes that live.
        most: bytes that ever lived at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._living: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` and look at what it gives."""
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # its parts come here by themselves
        result = func(*args, **(kwargs or {}))
        if makes_storage(func):
            for made in result if isinstance(result, tuple | list) else (result,):
                if isinstance(made, Tensor):
                    self._count(made.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name not in self._living:  # some operations give views that their schema is silent of
            self._living.add(name)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._forget, name, size)

    def _forget(self, name: int, size: int) -> None:
        self._living.remove(name)
        self.now -= size


@cache
def makes_storage(func: Any) -> bool:
    """Tell by an operation's schema whether what it gives is new, no view and no argument."""
    return any(made.alias_info is None for made in func._schema.returns)


def stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of all storages of tensors, each counted once."""
    storages = {
        storage._cdata: storage for t in tensors.values() for storage in get_untyped_storages(t)
    }
    return sum(storage.nbytes() for storage in storages.values())


@contextmanager
def freed_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Free each gradient once it is complete, as an optimizer does that steps in the backward."""

    def free(p: Tensor) -> None:
        p.grad = None

    hooks = [p.register_post_accumulate_grad_hook(free) for p in parameters]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def without_values() -> Iterator[None]:
    """Compute with tensors that have no values, and let no cache of a table keep one of them."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in ("modelzoo", "stages"):
                for value in list(vars(module).values()):
                    if isinstance(value, _lru_cache_wrapper):
                        value.cache_clear()
