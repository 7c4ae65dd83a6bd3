"""Our ControlNets and the bases that they control are the functions that diffusers' are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from modelzoo.checkpoints.folder import load_strict, read_config
from modelzoo.controlnet import load_controlnet, save_controlnet
from modelzoo.denoiser import Denoiser, init_denoiser
from modelzoo.flux.v1 import controlnet as flux1
from modelzoo.flux.v1.config import Flux1Config
from modelzoo.flux.v1.model import Flux1
from modelzoo.flux.v2 import controlnet as flux2
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2
from modelzoo.sd3 import controlnet as sd3
from modelzoo.sd3.model import SD3
from modelzoo.sd3.presets import transformer_config
from modelzoo.sdxl import controlnet as sdxl
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sdxl.model import SDXL
from tests.parity.controlled import (
    SD3_CONFIG,
    SDXL_CONFIG,
    Case,
    Flux2Net,
    flux2_case,
    flux_case,
    sd3_case,
    sdxl_case,
)

DEEP = replace(  # attention on every level and a depth of its own at the bottom
    SDXL_CONFIG,
    down_block_types=("CrossAttnDownBlock2D",) * 3,
    up_block_types=("CrossAttnUpBlock2D",) * 3,
    transformer_layers_per_block=(1, 2, 1, 3),
    reverse_transformer_layers_per_block=(1, 2, 1),
)
CASES = {
    "sdxl": sdxl_case(),
    "sdxl deep": sdxl_case(DEEP),
    "sd3 medium": sd3_case(2, extra=1),
    "sd3 large": sd3_case(3, 0, replace(SD3_CONFIG, dual_attention_layers=())),
    "flux1": flux_case(2, 3),
    "flux1 without single": flux_case(3, 0),
    "flux2": flux2_case(2, 3),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SHAPES = [(3, 5), (6, 2), (1, 1)]


def theirs(kind: Any, config: Any) -> nn.Module:
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    return kind(**values)


def randomize(module: nn.Module, seed: int) -> None:
    """Give every parameter a value that matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def grown(case: Case) -> tuple[Denoiser, nn.Module]:
    """Make a base whose every weight matters and a ControlNet of it."""
    denoiser = init_denoiser(case.denoiser, case.config, 0)
    randomize(denoiser.network, 1)
    return denoiser, case.grow(denoiser)


def trained(case: Case) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """Make base and ControlNet, ours and diffusers', as if the ControlNet had been trained."""
    denoiser, net = grown(case)
    randomize(net, 2)
    oracle = theirs(case.base, denoiser.config)
    load_strict(oracle, denoiser.network.state_dict(), "ours")
    oracle_net = load_strict(theirs(case.net, net.config), net.state_dict(), "ours")
    return denoiser.network, net, oracle, oracle_net


def relative(ours: Tensor, oracle: Tensor) -> float:
    return ((ours - oracle).abs().max() / oracle.abs().max()).item()


def flat(residuals: tuple[Any, ...]) -> list[Tensor]:
    return [t for each in residuals for t in ([each] if isinstance(each, Tensor) else each)]


@cases
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_residuals_and_the_controlled_base_equal_diffusers(case, shape, scale):
    base, net, oracle, oracle_net = trained(case)
    inputs, cond = case.batch(*shape), case.condition(*shape)
    residuals = net(**inputs, controlnet_cond=cond, conditioning_scale=scale)
    expected = case.ask_net(oracle_net, inputs, cond, scale)
    for ours, diffusers_ in zip(flat(residuals), flat(expected), strict=True):
        assert relative(ours, diffusers_) < 1e-5
    controlled = base(**inputs, **residuals._asdict())
    assert relative(controlled, case.ask_base(oracle, inputs, expected)) < 1e-5
    assert relative(base(**inputs), controlled) > 1e-3  # the control was felt


@cases
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_diffusers(case, checkpointing):
    """Of the ControlNet and of its base, through the residuals; every weight has a gradient."""
    base, net, oracle, oracle_net = trained(case)
    base.gradient_checkpointing = net.gradient_checkpointing = checkpointing
    inputs, cond = case.batch(3, 5), case.condition(3, 5).requires_grad_()
    out = base(**inputs, **net(**inputs, controlnet_cond=cond)._asdict())
    weights = torch.randn(out.shape)
    (out * weights).sum().backward()
    cond_grad, cond.grad = cond.grad, None
    residuals = case.ask_net(oracle_net, inputs, cond, 1.0)
    (case.ask_base(oracle, inputs, residuals) * weights).sum().backward()
    assert relative(cond_grad, cond.grad) < 1e-4
    for network, reference in ((net, oracle_net), (base, oracle)):
        expected = dict(reference.named_parameters())
        for name, parameter in network.named_parameters():
            theirs_of = expected[name].grad
            if theirs_of is None or not theirs_of.any():  # what nothing reads
                assert not parameter.grad.any(), name
            else:
                assert relative(parameter.grad, theirs_of) < 1e-4, name


@cases
def test_checkpointing_recomputes_every_block(case):
    """As many calls of blocks again in the backward pass as in the forward pass."""
    _, net, _, _ = trained(case)
    net.gradient_checkpointing = True
    inputs, cond = case.batch(2, 2), case.condition(2, 2)
    calls: list[str] = []
    kinds = ("JointBlock", "DualJointBlock", "SingleBlock", "ResnetBlock2D", "TransformerBlock")
    blocks = [module for module in net.modules() if type(module).__name__ in kinds]
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: calls.append("block"))
    residuals = net(**inputs, controlnet_cond=cond)
    assert len(calls) == len(blocks)
    sum(each.sum() for each in flat(residuals)).backward()
    assert len(calls) == 2 * len(blocks)


@cases
def test_a_new_controlnet_changes_no_bit_of_its_base_and_begins_to_learn(case):
    denoiser, net = grown(case)
    before = {name: value.clone() for name, value in denoiser.network.state_dict().items()}
    inputs, cond = case.batch(3, 5), case.condition(3, 5)
    residuals = net(**inputs, controlnet_cond=cond)
    controlled = denoiser.network(**inputs, **residuals._asdict())
    assert torch.equal(controlled, denoiser.network(**inputs))
    assert not any(each.any() for each in flat(residuals))
    controlled.square().sum().backward()
    names = ("controlnet_down", "controlnet_mid", "controlnet_blocks", "controlnet_single")
    outputs = [p for name, p in net.named_parameters() if name.startswith(names)]
    assert all(p.grad.any() for p in outputs if p.ndim > 1)
    torch.optim.SGD(net.parameters(), 0.1).step()
    again = net(**inputs, controlnet_cond=cond)
    assert any(each.any() for each in flat(again))
    after = denoiser.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())  # not shared


@pytest.mark.parametrize("name", [name for name in CASES if name != "flux2"])
def test_a_new_controlnet_is_what_diffusers_makes_of_the_same_base(name):
    """All but what embeds pixels, which is random in both."""
    case = CASES[name]
    denoiser, net = grown(case)
    oracle = load_strict(theirs(case.base, denoiser.config), denoiser.network.state_dict(), "ours")
    made = their_growth(case, oracle, net.config)
    state = made.state_dict()
    assert state.keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        random = name.startswith("controlnet_cond_embedding") and "conv_out" not in name
        assert value.shape == state[name].shape
        assert random or torch.equal(value, state[name]), name
    # diffusers' maker does not say whether the pooled text is seen; ours is trained with it
    said = {k: v for k, v in net.config.to_dict().items() if not k.startswith("_")}
    said.pop("force_zeros_for_pooled_projection", None)
    for name, value in said.items():
        given = made.config[name]
        assert (list(given) if isinstance(given, tuple) else given) == value, name


def their_growth(case: Case, oracle: Any, config: Any) -> nn.Module:
    if case.denoiser is SDXL:
        widths = config.conditioning_embedding_out_channels
        return case.net.from_unet(oracle, conditioning_embedding_out_channels=widths)
    if case.denoiser is SD3:
        # it looks for dual attention in layers that are not there, and changes its base's config
        oracle.register_to_config(dual_attention_layers=config.dual_attention_layers)
        oracle._internal_dict = dict(oracle.config)
        return case.net.from_transformer(
            oracle, config.num_layers, config.extra_conditioning_channels
        )
    return case.net.from_transformer(
        oracle,
        config.num_layers,
        config.num_single_layers,
        config.attention_head_dim,
        config.num_attention_heads,
    )


@cases
def test_folders_go_both_ways(case, tmp_path):
    _, net, _, _ = trained(case)
    save_controlnet(net, tmp_path / "ours")
    if case.net is not Flux2Net:
        read, info = case.net.from_pretrained(
            tmp_path / "ours", local_files_only=True, output_loading_info=True
        )
        assert not any(info.values())
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in read.state_dict().items())
        written = {k for k in read_config(tmp_path / "ours") if not k.startswith("_")}
        assert written == {k for k in read.config if not k.startswith("_")}
        read.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
        assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    else:
        save_controlnet(net, tmp_path / "theirs")
    ours = load_controlnet(type(net), tmp_path / "theirs")
    assert ours.config == net.config
    assert ours.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in ours.state_dict().items())


def released_sd3(variant: str) -> Any:
    dim, layers = {"large": (2432, 38), "medium": (1536, 24)}[variant]
    sizes = {"hidden_size": dim, "num_attention_heads": dim // 64, "num_layers": layers}
    return transformer_config({"variant": variant, "transformer": {**sizes, "in_channels": 64}})


RELEASED = {
    "sdxl": (SDXL, UNetConfig(), lambda base: sdxl.controlnet_from(base, 0)),
    "sd35 large": (SD3, released_sd3("large"), lambda base: sd3.controlnet_from(base, 19)),
    "sd35 medium": (SD3, released_sd3("medium"), sd3.controlnet_from),
    "flux1 dev": (Flux1, Flux1Config(guidance_embeds=True), flux1.controlnet_from),
    "flux1 schnell": (Flux1, Flux1Config(), lambda base: flux1.controlnet_from(base, 5, 10)),
    "flux2 dev": (Flux2, Flux2Config(), flux2.controlnet_from),
}
NETS = {
    SDXL: diffusers.ControlNetModel,
    SD3: diffusers.SD3ControlNetModel,
    Flux1: diffusers.FluxControlNetModel,
    Flux2: Flux2Net,
}


@pytest.mark.parametrize("name", RELEASED)
def test_full_sizes_have_the_names_and_shapes_of_diffusers(name):
    kind, config, grow = RELEASED[name]
    with torch.device("meta"):
        base = kind(kind.NETWORK(config))
    net = grow(base)
    with torch.device("meta"):
        oracle = theirs(NETS[kind], net.config)
    kinds = {name: (tuple(p.shape), p.dtype) for name, p in net.state_dict().items()}
    assert kinds == {name: (tuple(p.shape), p.dtype) for name, p in oracle.state_dict().items()}
