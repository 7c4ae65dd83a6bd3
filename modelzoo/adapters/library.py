"""peft, imported where adapters are made: it brings transformers, which takes seconds."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any


@cache
def peft() -> Any:
    """Import peft without what bitsandbytes says of a kernel that nothing here uses."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    import peft as library

    logger.setLevel(level)
    return library


def kinds() -> dict[str, Any]:
    """Give peft's configurations by the kinds that its files name."""
    library = peft()
    return {"LORA": library.LoraConfig, "LOKR": library.LoKrConfig, "LOHA": library.LoHaConfig}
