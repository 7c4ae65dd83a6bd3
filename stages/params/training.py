"""Section `training`: the method, its length, the optimizer and what is watched on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.params.editing import Fill, Kontext
from stages.params.methods import Controlnet, Dreambooth, FullFinetune, Lora
from stages.params.objective import Objective
from stages.params.optimizer import Ema, LrSchedule, Optimizer
from stages.params.schema import choice, number


@dataclass(frozen=True)
class Validation:
    """The loss on a fixed grid of (picture, t, noise)."""

    every: int = number(500, at_least=1)  # optimizer steps
    images: int = number(64, at_least=1)  # pictures of the validation split, at most
    timesteps: list[float] = number([0.1, 0.3, 0.5, 0.7, 0.9], above=0, below=1)  # values of t


@dataclass(frozen=True)
class Checkpoint:
    """What a killed run resumes from."""

    every: int = number(500, at_least=1)  # optimizer steps
    keep: int = number(2, at_least=1)  # newest ones kept
    keep_best: bool = False  # the one of the lowest validation loss too
    use: str = choice("last", "last", "best")  # whose weights are the training's outcome
    resume_from: str | None = None  # a checkpoint of the same parameters, such as of older code

    def __post_init__(self) -> None:
        """Refuse to use what is not kept."""
        if self.use == "best" and not self.keep_best:
            raise ValueError(
                "training.checkpoint.use: 'best' given, but training.checkpoint.keep_best is "
                "false: set it to true"
            )


@dataclass(frozen=True)
class BatchSize:
    """A micro-batch of buckets up to a size."""

    resolution: int = number(at_least=1)  # pixels; holds for buckets of at most its square
    batch_size: int = number(at_least=1)  # pictures a micro-batch


@dataclass(frozen=True)
class Training:
    """The training run."""

    method: str = choice(
        "full_finetune", "full_finetune", "lora", "dreambooth", "controlnet"
    )  # what learns, and how the loss is formed
    editing: str | None = choice(None, "kontext", "fill")  # null: pictures of captions alone
    epochs: int | None = number(None, at_least=1)  # passes over the data; null with steps
    steps: int | None = number(None, at_least=1)  # optimizer steps; null with epochs
    batch_size: int = number(1, at_least=1)  # pictures a micro-batch
    batch_sizes: list[BatchSize] = field(default_factory=list)  # of smaller or larger buckets
    gradient_accumulation: int = number(1, at_least=1)  # micro-batches an optimizer step
    learning_rate: float = number(1.0e-5, above=0)  # the highest of the schedule
    optimizer: Optimizer = Optimizer()  # how gradients become steps
    lr_schedule: LrSchedule = LrSchedule()  # the learning rate over the steps
    objective: Objective = Objective()  # what is learned
    caption_dropout: float = number(0.1, at_least=0, at_most=1)  # share of visits with no caption
    posterior: str = choice("mean", "mean", "sample")  # of the autoencoder, as latents
    max_grad_norm: float | None = number(1.0, above=0)  # longer gradients are shortened; null: none
    ema: Ema | None = None  # null: the trained weights themselves are kept
    validation: Validation = Validation()  # the watched loss
    checkpoint: Checkpoint = Checkpoint()  # for resuming
    max_bad_steps: int = number(3, at_least=1)  # in a row, after which training ends: NaN, or ...
    explosion_factor: float | None = number(None, above=1)  # ... so many times the usual loss
    log_every: int = number(10, at_least=1)  # optimizer steps
    kontext: Kontext | None = None  # only with its mode of editing, which has defaults
    fill: Fill | None = None  # the same
    allow_distilled: bool = False  # full fine-tuning of a base distilled to few steps
    base_quantization: str | None = choice(
        None, "int8", "fp8", "nf4"
    )  # how a frozen base is kept while training; null: in model.dtype
    full_finetune: FullFinetune | None = None  # only with its method
    lora: Lora | None = None  # only with its method
    dreambooth: Dreambooth | None = None  # only with its method
    controlnet: Controlnet | None = None  # only with its method

    @property
    def reads_lora(self) -> bool:
        """Tell whether the method adds the adapters of section `lora`, DreamBooth's aside."""
        return self.method == "lora" or self.is_control_lora

    @property
    def is_control_lora(self) -> bool:
        """Tell whether adapters and further channels follow a picture."""
        return (
            self.method == "controlnet"
            and self.controlnet is not None
            and self.controlnet.kind == "lora"
        )

    @property
    def draws_masks(self) -> bool:
        """Tell whether what is filled is drawn at random for each visit."""
        return self.editing == "fill" and self.fill is not None and self.fill.masks == "random"

    @property
    def learns(self) -> str:
        """Tell what is trained: the method, or what DreamBooth trains with."""
        if self.method != "dreambooth" or self.dreambooth is None:
            return self.method
        return self.dreambooth.train or ("full_finetune" if self.lora is None else "lora")

    def __post_init__(self) -> None:
        """Refuse pairs of which one would be ignored."""
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"training.epochs ({self.epochs}) and training.steps ({self.steps}) are both "
                "given: set one of them to null"
            )
        if self.optimizer.lr not in (None, self.learning_rate):
            raise ValueError(
                f"training.learning_rate ({self.learning_rate:g}) and training.optimizer.lr "
                f"({self.optimizer.lr:g}) are two names of one number and differ: "
                "set training.optimizer.lr to null"
            )
        if self.steps is not None and self.lr_schedule.warmup_steps > self.steps:
            raise ValueError(
                f"training.lr_schedule.warmup_steps: {self.lr_schedule.warmup_steps} given, at "
                f"most training.steps ({self.steps}) expected"
            )
