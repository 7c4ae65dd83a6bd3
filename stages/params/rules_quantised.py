"""What `training.base_quantization` needs: a base that nothing trains, and what packs it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from stages.params.config import Config


def quantised(config: Config) -> Iterator[str]:
    """Yield each broken rule as a sentence that names its keys."""
    training = config.training
    given = training.base_quantization
    if given is None:
        return
    if training.learns == "full_finetune":
        within = " by training.dreambooth.train" if training.method == "dreambooth" else ""
        yield (
            f"training.base_quantization: {given!r} given, but training.method "
            f"{training.method!r} trains the base's own weights{within}: set it to null, or train "
            "'lora'"
        )
    if given == "nf4" and find_spec("bitsandbytes") is None:
        yield (
            "training.base_quantization: 'nf4' given, but bitsandbytes is not installed: pip "
            "install 'diffbase[optimizers]', or set 'int8' or 'fp8'"
        )
