"""Sections of the training methods, each of which reads its own: `training.lora` and others."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.params.optimizer import check_patterns
from stages.params.schema import choice, number


@dataclass(frozen=True)
class FullFinetune:
    """The weights of the base themselves."""

    parts: list[str] = field(
        default_factory=list
    )  # parts of parameter names, or regular expressions: what learns; []: everything

    def __post_init__(self) -> None:
        """Refuse what is no regular expression."""
        check_patterns("training.full_finetune.parts", self.parts)


@dataclass(frozen=True)
class RankPattern:
    """Layers with another rank than the others."""

    modules: str  # pattern, as in target_modules
    rank: int = number(at_least=1)  # inner width
    alpha: float | None = number(None, above=0)  # null: training.lora.alpha


@dataclass(frozen=True)
class Lora:
    """Adapters: small weights beside frozen ones."""

    kind: str = choice("lora", "lora", "lokr", "loha")  # product: matrix, Kronecker, Hadamard
    rank: int = number(32, at_least=1)  # inner width
    alpha: float = number(32.0, above=0)  # the update is scaled by alpha / rank
    dropout: float = number(0.0, at_least=0, below=1)  # of the adapter's input
    # ends of layers' names, regular expressions; or attention, feed-forward, all-linear; null:
    # the family's attention
    target_modules: list[str] | None = None
    rank_pattern: list[RankPattern] = field(default_factory=list)  # the first that fits counts
    use_rslora: bool = False  # scale by alpha / sqrt(rank)
    use_dora: bool = False  # learn the lengths of the weights' rows too
    init_from: str | None = None  # LoRA to go on from: file, or folder; null: zero
    init_digest: str | None = None  # written by `use`: of what init_from holds
    train_text_encoder: bool = False  # adapters in CLIP too, which then encodes at each step
    # as target_modules, of CLIP's layers; null: attention
    text_target_modules: list[str] | None = None


@dataclass(frozen=True)
class ClassImages:
    """How the untrained base makes the pictures of the class."""

    seed: int = number(0, at_least=0, below=2**63)  # of their starting noise and of {a|b}
    steps: int | None = number(None, at_least=1)  # of the sampler; null: the checkpoint's own
    cfg_scale: float | None = number(None, at_least=0)  # 1 is no guidance; null: as for steps
    guidance: float | None = number(None, at_least=0)  # told to models that embed it; null: theirs
    shift: float | None = number(None, above=0)  # of the sampler's t; null: the model's own
    sampler: str | None = choice(None, "euler", "ddim", "dpmpp_2m")  # null: the model's own
    width: int | None = number(None, at_least=1)  # pixels; null: data.resolution
    height: int | None = number(None, at_least=1)  # pixels; null: data.resolution


@dataclass(frozen=True)
class Dreambooth:
    """Personalisation with prior preservation."""

    instance_prompt: str  # caption of the subject's pictures that have none of their own
    class_prompt: str  # caption of its class; {a|b} stands for one of its parts in each picture
    num_class_images: int = number(200, at_least=0)  # pictures of the class; 0 but for images
    prior_preservation_weight: float = number(1.0, at_least=0)  # of the class loss
    prior: str = choice(
        "images", "images", "prediction", "none"
    )  # what keeps the class: pictures that the base makes, its predictions, or nothing
    train: str | None = choice(
        None, "lora", "full_finetune"
    )  # what learns; null: lora where training.lora is given
    class_images: ClassImages = ClassImages()  # how they are made


@dataclass(frozen=True)
class Controlnet:
    """A base that follows a picture, by a network beside it (Zhang et al. 2023) or by adapters."""

    conditioning_type: str = choice(
        "canny", "canny", "grey", "blur", "tile", "depth", "given"
    )  # what is followed: made of each target, or given as data.condition
    kind: str = choice(
        "network", "network", "lora"
    )  # copies of blocks; or, of FLUX, adapters as training.lora says, and channels for the picture
    conditioning_scale: float = number(1.0, above=0)  # factor of what the network adds to the base
    conditioning_dropout: float = number(0.0, at_least=0, below=1)  # share of visits without it
    canny_low: float = number(100.0, at_least=0)  # slope of an edge's weak parts, in grey values
    canny_high: float = number(200.0, above=0)  # slope that an edge has somewhere
    canny_sigma: float = number(1.0, at_least=0)  # pixels that are smoothed over before
    blur_radius: float = number(8.0, above=0)  # pixels, standard deviation
    tile_factor: int = number(8, at_least=2)  # a side is shrunk by it and enlarged again
    depth_model: str | None = None  # folder or Hugging Face id of a transformers depth estimator
    num_layers: int | None = number(None, at_least=1)  # blocks copied; null: 4 of FLUX, 12 of SD3.5
    num_single_layers: int | None = number(None, at_least=0)  # of FLUX with one stream; null: 4
    embedding_channels: list[int] = number(
        [16, 32, 96, 256], at_least=1
    )  # SDXL: of what embeds the picture; each but the first halves it, as the autoencoder does
