"""peft and bitsandbytes, imported where they are used: they bring what takes seconds."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from typing import Any


@cache
def peft() -> Any:
    """Import peft, which imports bitsandbytes where it is installed."""
    return _quiet("peft")


@cache
def bitsandbytes() -> Any:
    """Import bitsandbytes."""
    return _quiet("bitsandbytes")


def kinds() -> dict[str, Any]:
    """Give peft's configurations by the kinds that its files name."""
    library = peft()
    return {"LORA": library.LoraConfig, "LOKR": library.LoKrConfig, "LOHA": library.LoHaConfig}


def _quiet(name: str) -> Any:
    """Import without what bitsandbytes says of a kernel that nothing here uses."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    library = import_module(name)
    logger.setLevel(level)
    return library
