"""The optimizer's keys are read, or refused in one sentence before anything runs."""

from pathlib import Path

import pytest

from stages.params.resolve import settled
from stages.params.rules_optimizer import PACKAGES, READS

ROOT = Path(__file__).parents[2]
PLAIN = (  # of the keys that the digits experiment sets
    "training.ema=null",
    "training.optimizer.beta2=0.999",
    "training.lr_schedule.type=constant",
)


def settle(*overrides):
    return settled(ROOT / "params/experiments/digits_flux2.yaml", [*PLAIN, *overrides])


@pytest.mark.parametrize("kind", READS)
def test_each_optimizer_can_be_chosen(kind):
    overrides = [f"training.optimizer.type={kind}", "training.learning_rate=1.0"]
    assert settle(*overrides).training.optimizer.type == kind


@pytest.mark.parametrize("kind", PACKAGES)
def test_a_library_that_is_not_there_is_named(kind, monkeypatch):
    monkeypatch.setattr("stages.params.rules_optimizer.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"{PACKAGES[kind]} is not installed: pip install 'diff"):
        settle(f"training.optimizer.type={kind}", "training.learning_rate=1.0")


def test_prodigy_takes_the_rate_as_a_factor():
    with pytest.raises(ValueError, match="takes this as a factor of it"):
        settle("training.optimizer.type=prodigy")


OPTIMIZER, SCHEDULE = "training.optimizer", "training.lr_schedule"
REFUSED = [
    ("'adafactor' does not read it: set it to 0.9", "type=adafactor", "beta1=0.5"),
    ("'lion' does not read it: set it to 1e-08", "type=lion", "eps=1e-6"),
    ("'adamw' does not read it: set it to 0.95", "momentum=0.9"),
    ("'prodigy' finds one rate", "type=prodigy", "rounding=kahan"),
    ("groups is given, but 'prodigy'", "type=prodigy", "groups=[{match: a, lr_scale: 0.5}]"),
    ("model.dtype 'float32' is not rounded to", "rounding=stochastic"),
    ("max_grad_norm 1 needs its length: set it to null", "fused_backward=true"),
    ("which is no regular expression", "groups=[{match: '(', lr_scale: 0.5}]"),
    ("'' given, which is in every name", "groups=[{match: '', lr_scale: 0.5}]"),
]


@pytest.mark.parametrize(("said", "overrides"), [(said, given) for said, *given in REFUSED])
def test_an_optimizers_settings_that_contradict_are_refused(said, overrides):
    with pytest.raises(ValueError, match="training") as told:
        settle("training.learning_rate=1", *(f"{OPTIMIZER}.{one}" for one in overrides))
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("said", "overrides"),
    [
        ("'schedule_free' keeps an average of its own", ["training.ema={decay: 0.9}"]),
        ("'schedule_free' takes the place of a schedule", [f"{SCHEDULE}.type=cosine"]),
    ],
)
def test_schedule_free_has_neither_schedule_nor_average_beside_it(said, overrides):
    with pytest.raises(ValueError, match=said):
        settle(f"{OPTIMIZER}.type=schedule_free", *overrides)


@pytest.mark.parametrize(
    ("said", "overrides"),
    [
        ("type 'constant' does not read it: set it to 1", ["power=2.0"]),
        ("type 'linear' does not read it: set it to 1", ["type=linear", "cycles=3"]),
        ("type 'constant' never falls", ["decay_steps=5"]),
        ("less warmup_steps .1950. expected", ["type=linear", "decay_steps=1990"]),
    ],
)
def test_a_schedules_settings_that_contradict_are_refused(said, overrides):
    with pytest.raises(ValueError, match=said):
        settle(*(f"{SCHEDULE}.{override}" for override in overrides))


def test_stepping_in_the_backward_pass_needs_one_a_step():
    fused = [f"{OPTIMIZER}.fused_backward=true", "training.max_grad_norm=null"]
    assert settle(*fused).training.optimizer.fused_backward
    with pytest.raises(ValueError, match="gradient_accumulation is 2: set it to 1"):
        settle(*fused, "training.gradient_accumulation=2")


def test_adapters_are_never_rounded():
    rounded = ["model.dtype=bfloat16", f"{OPTIMIZER}.rounding=kahan"]
    assert settle(*rounded).training.optimizer.rounding == "kahan"
    prompts = "training.dreambooth={instance_prompt: a sks, class_prompt: a, num_class_images: 1}"
    of_control = "training.controlnet={kind: lora}"
    for by_adapters in (
        ["training.method=lora"],
        ["training.method=dreambooth", prompts, "training.lora={}"],
        ["training.method=controlnet", of_control, "training.lora={}"],
    ):
        with pytest.raises(ValueError, match="adapters are float32 whatever"):
            settle(*rounded, *by_adapters)


def test_a_distilled_base_is_fully_tuned_only_on_demand():
    released = ["model.from_scratch=null", "model.pretrained_path=weights"]
    klein = [*released, "model.variant=klein-4b"]
    subject = "training.dreambooth={instance_prompt: a sks, class_prompt: a, num_class_images: 1}"
    for method in ([], ["training.method=dreambooth", subject]):
        with pytest.raises(ValueError, match="'klein-4b' is distilled to few steps"):
            settle(*klein, *method)
    assert settle(*klein, "training.allow_distilled=true").training.allow_distilled
    assert settle(*released, "model.variant=klein-4b-base")
    assert settle("model.variant=klein-4b"), "a base made here is not"
    with pytest.raises(ValueError, match="allow_distilled is true, but"):
        settle("training.allow_distilled=true")
