"""Compile what a step computes with, block by block (`hardware.compile`)."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.utils._triton import has_triton

from stages.train.model import Model

BACKEND = "inductor"
COMPILATIONS = 1 << 12  # of a kind of block, one for each shape; beyond torch's 8 it runs eagerly


def compile_blocks(model: Model, device: torch.device) -> None:
    """Let each block's forward run as compiled code; names, hooks and weights stay as they are.

    Blocks of a kind share code. It is compiled anew for each shape of a batch, and not once for
    all shapes: code for all shapes is another where the shapes come in another order, as after a
    resume, and so would be the bits.

    Raises:
        ValueError: Nothing can be compiled on this machine.
    """
    refuse_where_nothing_compiles(device)
    limits = torch._dynamo.config
    limits.recompile_limit = limits.accumulated_recompile_limit = COMPILATIONS
    limits.fail_on_recompile_limit_hit = True
    for block in blocks_of(model):
        compiled = torch.compile(block.forward, backend=BACKEND, dynamic=False)
        block.forward = compiled


def blocks_of(model: Model) -> Sequence[nn.Module]:
    """List the blocks of the denoiser, and those of their kinds in networks beside it."""
    blocks = list(model.denoiser.blocks())
    kinds = tuple({type(block) for block in blocks})
    frozen = None if model.frozen is None else model.frozen.network
    for network in (model.controlnet, frozen):
        if network is not None:
            blocks += [module for module in network.modules() if isinstance(module, kinds)]
    return blocks


def eagerly(is_compiled: bool) -> AbstractContextManager[object]:
    """Run compiled blocks as they are written, for shapes that are not worth a compilation."""
    if not is_compiled:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def refuse_where_nothing_compiles(device: torch.device) -> None:
    """Look for what turns torch's code into the machine's.

    Raises:
        ValueError: It is not installed.
    """
    if BACKEND != "inductor":
        return
    if device.type == "cuda":
        lacks = [] if has_triton() else ["Triton for this GPU"]
    else:
        header = Path(sysconfig.get_paths()["include"]) / "Python.h"
        lacks = [] if header.is_file() else ["the headers of Python (python3-dev)"]
        lacks += [] if _has_cpp_compiler() else ["a C++ compiler (g++)"]
    if lacks:
        raise ValueError(
            f"params.yaml: hardware.compile is true, but {' and '.join(lacks)} cannot be found "
            "here, without which torch compiles nothing: install this, or set it to false"
        )


def _has_cpp_compiler() -> bool:
    from torch._inductor import cpp_builder, exc  # heavy, and only for this

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return False
    return True
