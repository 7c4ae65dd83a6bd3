"""What the pre-flight lets pass, training begins with; it refuses what training would, and no more.

Every key of the section `training` is in a case, so that a new one is tried here or is missed.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.artifacts import read_table, write_table
from stages.base_record import Part, read_record, write_record
from stages.forecast.answer import answer
from stages.needs import Asked, MicroBatch
from stages.params.read import read
from stages.params.training import Training
from stages.train.stage import Params, create_trainer
from tests import toys
from tests.train.conftest import TRAINING, Workspace

ROLES: dict[str, dict[str, Any]] = {  # of the pictures of a workspace
    "plain": {},
    "prior": {"num_prior": 4},
    "kontext": {"references": (1,)},
    "fill": {"has_masks": True},
    "control": {"has_conditions": True},
}
LENGTHS = {
    "sdxl": {"clip_l": 12, "clip_g": 12},
    "flux": {"clip_l": 12, "t5": 10},
    "flux2": {"qwen3": 5},
}
LORA = {"method": "lora", "lora": {"rank": 2, "alpha": 2.0, "target_modules": ["all-linear"]}}
PROMPTS = {"instance_prompt": "picture 1", "class_prompt": "picture 0"}
DREAMBOOTH = {"method": "dreambooth", "dreambooth": {**PROMPTS, "num_class_images": 4}}
CONTROLNET = {"method": "controlnet", "controlnet": {"num_layers": 1, "num_single_layers": 1}}
CONTROL_LORA = {**LORA, "method": "controlnet", "controlnet": {"kind": "lora"}}
BFLOAT16 = {"model": {"dtype": "bfloat16"}}


def lora(**changes: Any) -> dict[str, Any]:
    return {**LORA, "lora": {**LORA["lora"], **changes}}  # type: ignore[dict-item]


def optimizer(kind: str, **changes: Any) -> dict[str, Any]:
    return {"optimizer": {"type": kind, **changes}}


@dataclasses.dataclass(frozen=True)
class Case:
    """A training, and what is said against it."""

    training: Mapping[str, Any]
    sections: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    family: str = "flux"
    roles: str = "plain"
    refusal: str | None = None  # part of it; None: it begins


CASES = {
    "lengths": Case({"steps": None, "epochs": 2, "gradient_accumulation": 2, "log_every": 1}),
    "sizes of batches": Case({"batch_sizes": [{"resolution": 16, "batch_size": 3}]}),
    "adamw": Case(optimizer("adamw", lr=1e-2, weight_decay=0.1, beta1=0.8, beta2=0.9, eps=1e-6)),
    "adamw of 8 bits": Case(optimizer("adamw_8bit")),
    "adafactor": Case(optimizer("adafactor", rounding="stochastic"), BFLOAT16),
    "lion": Case(optimizer("lion", rounding="kahan"), BFLOAT16),
    "prodigy": Case({**optimizer("prodigy"), "learning_rate": 1.0}),
    "schedule-free": Case({**optimizer("schedule_free"), "ema": None}),
    "muon": Case(optimizer("muon", momentum=0.9, groups=[{"match": "attn", "lr_scale": 0.5}])),
    "fused": Case({**optimizer("adafactor", fused_backward=True), "max_grad_norm": None}),
    "no such group": Case(
        optimizer("adamw", groups=[{"match": "nothing", "lr_scale": 0.5}]),
        refusal="'nothing' matches no parameter that could learn",
    ),
    "schedule": Case(
        {"lr_schedule": {"type": "cosine", "warmup_steps": 2, "min_ratio": 0.1, "cycles": 2}}
    ),
    "schedule's end": Case(
        {"lr_schedule": {"type": "polynomial", "decay_steps": 3, "power": 2.0}, "ema": None}
    ),
    "times": Case(
        {
            "objective": {"logit_mean": 0.1, "logit_std": 0.9, "shift": 3.0, "guidance": 2.0}
            | {"loss": "huber", "huber_delta": 0.5, "weighting": "sigma_sqrt"},
            "caption_dropout": 1.0,
            "posterior": "sample",
        }
    ),
    "times by size": Case(
        {
            "objective": {"resolution_shift": "flux", "base_tokens": 4, "max_tokens": 9}
            | {"base_shift": 0.4, "max_shift": 1.1, "timestep_sampling": "mode", "mode_scale": 1}
        }
    ),
    "noise": Case(
        {
            "objective": {
                "type": "ddpm",
                "noise_offset": 0.1,
                "weighting": "min_snr",
                "snr_gamma": 3,
            }
        },
        family="sdxl",
    ),
    "no guidance to tell": Case(
        {"objective": {"guidance": 2.0}}, family="flux2", refusal="this base embeds no guidance"
    ),
    "watching": Case(
        {
            "validation": {"every": 1, "images": 2, "timesteps": [0.5]},
            "checkpoint": {"every": 1, "keep": 1, "keep_best": True, "use": "best"},
            "max_bad_steps": 2,
            "explosion_factor": 5.0,
        }
    ),
    "no such checkpoint": Case(
        {"checkpoint": {"resume_from": "nowhere"}}, refusal="no checkpoint is there"
    ),
    "parts": Case({"full_finetune": {"parts": ["attn"]}, "allow_distilled": True}),
    "no such part": Case({"full_finetune": {"parts": ["nothing"]}}, refusal="'nothing' matches no"),
    "lora": Case(lora(dropout=0.1, use_rslora=True, use_dora=True)),
    "lora of ranks": Case(lora(rank_pattern=[{"modules": "to_q", "rank": 1, "alpha": 1.0}])),
    "lora of nothing": Case(lora(target_modules=["nothing"]), refusal="'nothing' fits no layer"),
    "lora of nowhere": Case(lora(init_from="nowhere", init_digest=""), refusal="nowhere"),
    "lora, never rounded": Case(
        {**LORA, **optimizer("adamw", rounding="kahan")},
        BFLOAT16,
        refusal="no weight that learns is bfloat16",
    ),
    "lora of text": Case(
        lora(train_text_encoder=True, text_target_modules=["q_proj"]), family="sdxl"
    ),
    "lokr of text": Case(lora(kind="lokr", train_text_encoder=True)),
    "loha of text": Case(lora(kind="loha", train_text_encoder=True)),
    "packed": Case({**LORA, "base_quantization": "nf4"}),
    "packed by rows": Case({**LORA, "base_quantization": "int8"}, BFLOAT16),
    "prior": Case(DREAMBOOTH, roles="prior"),
    "prior by predictions": Case(
        {
            "method": "dreambooth",
            "dreambooth": {**PROMPTS, "prior": "prediction", "num_class_images": 0}
            | {"prior_preservation_weight": 0.5, "train": "full_finetune"},
        }
    ),
    "kontext": Case({"editing": "kontext", "kontext": {"time_offset": 2.0}}, roles="kontext"),
    "fill": Case({"editing": "fill"}, roles="fill"),
    "fill of its own masks": Case({"editing": "fill", "fill": {"masks": "random"}}),
    "fill by adapters": Case(
        {**LORA, "editing": "fill"}, roles="fill", refusal="needs a base that fills"
    ),
    "controlnet": Case({**CONTROLNET, "base_quantization": "int8"}, roles="control"),
    "controlnet of more blocks": Case(
        {**CONTROLNET, "controlnet": {"num_layers": 9}}, roles="control", refusal="of num_layers 9"
    ),
    "controlnet of channels": Case(
        {"method": "controlnet", "controlnet": {"embedding_channels": [8, 8]}}
        | {"objective": {"type": "ddpm"}},
        family="sdxl",
        roles="control",
    ),
    "control-lora": Case(CONTROL_LORA, roles="control"),
    "control-lora, never rounded": Case(
        {**CONTROL_LORA, **optimizer("adamw", rounding="stochastic")},
        BFLOAT16,
        roles="control",
        refusal="no weight that learns is bfloat16",
    ),
    "half precision": Case({}, {**BFLOAT16, "hardware": {"mixed_precision": "bf16"}}),
    "less activations": Case({}, {"hardware": {"gradient_checkpointing": True}}),
    "blocks without a GPU": Case(
        LORA,
        {"hardware": {"offload_blocks": 1, "gradient_checkpointing": True}},
        refusal="there is no GPU whose memory this would save",
    ),
}
# keys that change what is trained on or how it is told, and nothing that is built
ELSEWHERE = {
    "dreambooth.class_images",  # of the stage that makes them
    "controlnet.conditioning_type",  # of the stage that makes the pictures, as the next
    "controlnet.canny_low",
    "controlnet.canny_high",
    "controlnet.canny_sigma",
    "controlnet.blur_radius",
    "controlnet.tile_factor",
    "controlnet.depth_model",
    "controlnet.conditioning_scale",  # numbers of a training, whose effect tests/train shows
    "controlnet.conditioning_dropout",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Workspace]:
    """Give the workspace of a family whose samples have these pictures, made when first asked."""
    made: dict[tuple[str, str], Workspace] = {}

    def place(family: str, roles: str) -> Workspace:
        if (family, roles) not in made:
            root = tmp_path_factory.mktemp(f"{family}-{roles}")
            made[family, roles] = with_text(Workspace(root, family=family, **ROLES[roles]))
        return made[family, roles]

    return place


def with_text(workspace: Workspace) -> Workspace:
    """Add the encoders of text and of pictures, whose rows the workspace is taken to have."""
    base, family = workspace.root / "data/base", workspace.family
    toys.make_base(base.parent / "made/base", family)
    for name in ("vae", "text_encoder", "tokenizer"):
        record = read_record(base.parent / f"made/base/{name}.json")
        parts = {folder: Part(name, place, name) for folder, place in record.folders.items()}
        write_record(base / f"{name}.json", parts, record.settings)
    for manifest, encoder in (("prompts", "text_encoder"), ("latents", "vae")):
        path = workspace.root / f"data/{manifest}.parquet"
        made_by = {"encoder": read_record(base / f"{encoder}.json").digest, "family": family}
        write_table(path, read_table(path, manifest), manifest, made_by)
    return workspace


@pytest.mark.parametrize("name", CASES)
def test_the_preflight_says_what_training_would_say(places, monkeypatch, name):
    case = CASES[name]
    predicted, begun = refusals_of(case, places, monkeypatch)
    if case.refusal is None:
        assert (predicted, begun) == (None, None)
    else:
        assert case.refusal in str(predicted)
        assert predicted == begun


def test_the_preflight_looks_for_a_compiler(places, monkeypatch):
    from torch._inductor import config  # heavy

    case = Case({}, {"hardware": {"compile": True}})
    with config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        predicted, begun = refusals_of(case, places, monkeypatch)
    assert "a C++ compiler (g++) cannot be found here" in str(predicted)
    assert predicted == begun


def refusals_of(
    case: Case, places: Callable[[str, str], Workspace], monkeypatch: pytest.MonkeyPatch
) -> tuple[str | None, str | None]:
    """Return what the pre-flight and what the training itself has against a case."""
    workspace = places(case.family, case.roles)
    monkeypatch.chdir(workspace.root)
    monkeypatch.delenv("DIFFBASE_STORE", raising=False)
    write_params(workspace, case)
    return refusal_of(lambda: predict(case)), refusal_of(begin)


def write_params(workspace: Workspace, case: Case) -> None:
    """Write params.yaml."""
    tree = {
        **workspace.tree,
        "training": {**TRAINING, **objective_of(case.family), **case.training},
    }
    for section, changes in case.sections.items():
        tree[section] = {**tree[section], **changes}
    Path("params.yaml").write_text(yaml.safe_dump(tree))


def objective_of(family: str) -> dict[str, Any]:
    return {"objective": {"type": "ddpm"}} if family == "sdxl" else {}


def predict(case: Case) -> None:
    """Ask what the pre-flight asks, but for the time."""
    references = [(16, 16)] if case.roles == "kontext" else []
    batches = [MicroBatch(32, 16, 2, references)]
    asked = Asked(
        "params.yaml", batches, LENGTHS[case.family], records="data/base", has_probe=False
    )
    answer(asked)


def begin() -> None:
    """Prepare a training up to its first batch."""
    create_trainer(read(Params)).batches.at(0)


def refusal_of(act: Callable[[], object]) -> str | None:
    """Return the one sentence against what is done; other errors than of the user pass through."""
    try:
        act()
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


def test_every_key_of_training_is_in_a_case():
    tried = {key for case in CASES.values() for key in keys_of_tree(case.training)}
    tried |= set(keys_of_tree(TRAINING))
    missed = set(keys_of_type(Training)) - tried - ELSEWHERE
    assert not missed, "add a case that sets them"


def keys_of_tree(tree: Mapping[str, Any], start: str = "") -> Iterator[str]:
    """List the keys that a mapping sets, with those of the sections in it."""
    for name, value in tree.items():
        yield f"{start}{name}"
        if isinstance(value, Mapping):
            yield from keys_of_tree(value, f"{start}{name}.")


def keys_of_type(section: Any, start: str = "") -> Iterator[str]:
    """List the keys that a section has."""
    for name, kind in typing.get_type_hints(section).items():
        inner = [each for each in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(each)]
        if inner and typing.get_origin(kind) is not list and f"{start}{name}" not in ELSEWHERE:
            yield from keys_of_type(inner[0], f"{start}{name}.")
        elif f"{start}{name}" not in ELSEWHERE:
            yield f"{start}{name}"
