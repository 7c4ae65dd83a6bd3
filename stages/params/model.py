"""Section `model`: the family, its sizes, and where the base weights come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.params.schema import choice, number

FAMILIES = ("sdxl", "flux", "flux2", "sd3")
SINGLE_FILE = ".safetensors"  # how a pretrained_path ends that is a file


@dataclass(frozen=True)
class FromScratch:
    """A small base model made here, from pictures and captions of its own."""

    dataset: str  # folder of pictures and captions; not the training data, which must not change it
    vocab_size: int = number(512, at_least=300)  # tokens; 256 bytes, the special ones and merges
    vae_steps: int = number(300, at_least=1)  # optimizer steps of the autoencoder
    vae_batch_size: int = number(32, at_least=1)  # pictures a step
    vae_learning_rate: float = number(2.0e-3, above=0)  # of AdamW


@dataclass(frozen=True)
class Transformer:
    """Sizes of the denoising transformer; null means the family's own value."""

    hidden_size: int = number(at_least=1)  # channels of a token
    num_attention_heads: int = number(at_least=1)  # heads; they divide hidden_size
    num_layers: int = number(at_least=0)  # joint (double-stream) blocks
    in_channels: int = number(at_least=1)  # channels of an image token: 4 x latent channels
    num_single_layers: int = number(0, at_least=0)  # single-stream blocks; SD3 has none
    guidance_embeds: bool = False  # true: distilled guidance is an input (FLUX dev)
    qk_norm: bool = True  # RMS norm of queries and keys
    mlp_ratio: float | None = number(None, above=0)  # width of the MLP over hidden_size
    axes_dims_rope: list[int] | None = number(None, at_least=2)  # rotary channels an axis, even
    pos_embed_max_size: int | None = number(None, at_least=1)  # SD3: tokens along a side
    dual_attention_layers: list[int] | None = number(None, at_least=0)  # SD3.5 medium's


@dataclass(frozen=True)
class Unet:
    """Sizes of SDXL's UNet."""

    in_channels: int = number(4, at_least=1)  # latent channels
    model_channels: int = number(320, at_least=1)  # channels of the first level
    channel_mult: list[int] = number([1, 2, 4], at_least=1)  # channels a level / model_channels
    num_res_blocks: int = number(2, at_least=1)  # residual blocks a level
    attention_resolutions: list[int] = number([4, 2], at_least=1)  # downsampling with attention
    transformer_depth: list[int] = number([1, 2, 10], at_least=0)  # blocks a level, then the middle
    num_head_channels: int = number(64, at_least=1)  # channels a head
    context_dim: int = number(2048, at_least=1)  # channels of the text context
    norm_num_groups: int = number(32, at_least=1)  # of group norm; divides every level's channels


@dataclass(frozen=True)
class Vae:
    """Sizes of the image autoencoder."""

    latent_channels: int = number(at_least=1)  # channels of its latents, before patching
    block_out_channels: list[int] = number([128, 256, 512, 512], at_least=1)  # channels a level
    layers_per_block: int = number(2, at_least=1)  # residual blocks a level
    norm_num_groups: int = number(32, at_least=1)  # of group norm; divides every level's channels
    scaling_factor: float | None = number(None, above=0)  # latents = (z - shift) * scaling
    shift_factor: float | None = None  # in units of z; null: none, or FLUX.2's batch norm


@dataclass(frozen=True)
class T5:
    """Sizes of a T5 encoder (defaults: XXL)."""

    hidden_size: int = number(4096, at_least=1)  # channels
    num_layers: int = number(24, at_least=1)  # blocks
    num_attention_heads: int = number(64, at_least=1)  # heads
    head_dim: int = number(64, at_least=1)  # channels a head
    intermediate_size: int = number(10240, at_least=1)  # width of the MLP
    max_length: int | None = number(None, at_least=2)  # tokens a caption; null: the family's own


@dataclass(frozen=True)
class ClipL:
    """Sizes of CLIP-L's text half."""

    hidden_size: int = number(768, at_least=1)  # channels
    num_layers: int = number(12, at_least=1)  # blocks
    num_attention_heads: int = number(12, at_least=1)  # heads; they divide hidden_size
    intermediate_size: int = number(3072, at_least=1)  # width of the MLP
    projection_dim: int | None = number(None, at_least=1)  # of the pooled text; null: hidden_size
    max_length: int = number(77, at_least=3)  # tokens a caption, marks included


@dataclass(frozen=True)
class ClipG:
    """Sizes of OpenCLIP bigG's text half."""

    hidden_size: int = number(1280, at_least=1)  # channels
    num_layers: int = number(32, at_least=1)  # blocks
    num_attention_heads: int = number(20, at_least=1)  # heads; they divide hidden_size
    intermediate_size: int = number(5120, at_least=1)  # width of the MLP
    projection_dim: int | None = number(None, at_least=1)  # of the pooled text; null: hidden_size
    max_length: int = number(77, at_least=3)  # tokens a caption, marks included


@dataclass(frozen=True)
class Qwen3:
    """Sizes of a Qwen3 text encoder (defaults: 4B, as FLUX.2 klein-4b uses it)."""

    hidden_size: int = number(2560, at_least=1)  # channels
    num_layers: int = number(36, at_least=1)  # blocks
    num_attention_heads: int = number(32, at_least=1)  # query heads
    num_key_value_heads: int = number(8, at_least=1)  # key and value heads; they divide the former
    head_dim: int = number(128, at_least=2)  # channels a head, even
    intermediate_size: int = number(9728, at_least=1)  # width of the MLP
    max_length: int = number(512, at_least=16)  # tokens a caption, chat template included
    output_layers: list[int] = number(
        [9, 18, 27], at_least=0
    )  # hidden states that make the context; 0 is the embedding


@dataclass(frozen=True)
class Mistral3:
    """Sizes of a Mistral-3 text encoder (defaults: Small 24B, as FLUX.2 dev uses it)."""

    hidden_size: int = number(5120, at_least=1)  # channels
    num_layers: int = number(40, at_least=1)  # blocks
    num_attention_heads: int = number(32, at_least=1)  # query heads
    num_key_value_heads: int = number(8, at_least=1)  # key and value heads; they divide the former
    head_dim: int = number(128, at_least=2)  # channels a head, even
    intermediate_size: int = number(32768, at_least=1)  # width of the MLP
    max_length: int = number(512, at_least=16)  # tokens a caption, chat template included
    output_layers: list[int] = number([10, 20, 30], at_least=0)  # hidden states of the context


@dataclass(frozen=True)
class TextEncoders:
    """The text encoders of the family; null: it has no such one."""

    t5: T5 | None = None  # FLUX.1, SD3.5
    clip_l: ClipL | None = None  # SDXL, FLUX.1, SD3.5
    clip_g: ClipG | None = None  # SDXL, SD3.5
    qwen3: Qwen3 | None = None  # FLUX.2 klein
    mistral3: Mistral3 | None = None  # FLUX.2 dev


@dataclass(frozen=True)
class Scheduler:
    """How the base model was taught noise."""

    type: str = choice("flow_matching", "flow_matching", "ddpm")  # kind of noise process
    prediction_type: str | None = choice(None, "epsilon", "v_prediction")  # of ddpm; null otherwise
    zero_terminal_snr: bool = False  # of v_prediction: no data is left at the last timestep


@dataclass(frozen=True)
class Model:
    """The base model."""

    type: str = field(metadata={"choices": FAMILIES})  # family
    variant: str | None = None  # dev, schnell, klein-4b, klein-9b, large, medium ...
    # folder in the diffusers layout, Hugging Face id (owner/name, owner/name@revision), or one
    # .safetensors file with components; null with from_scratch
    pretrained_path: str | None = None
    components: str | None = None  # diffusers folder with what the file lacks; `use`: else source
    dtype: str = choice("float32", "float32", "bfloat16", "float16")  # of the base weights
    source: str | None = None  # written by `use`: pretrained_path, its pin, or the dataset
    from_scratch: FromScratch | None = None  # a base made here; null with pretrained_path
    transformer: Transformer | None = None  # null: the sizes of the weights
    unet: Unet | None = None  # SDXL only
    vae: Vae | None = None  # null: the sizes of the weights
    text_encoder: TextEncoders | None = None  # null: the sizes of the weights
    scheduler: Scheduler = Scheduler()  # the noise process

    @property
    def is_single_file(self) -> bool:
        """Whether the base is one file, and `components` holds the rest of it."""
        return self.pretrained_path is not None and self.pretrained_path.endswith(SINGLE_FILE)

    def __post_init__(self) -> None:
        """Refuse two bases."""
        if self.pretrained_path is not None and self.from_scratch is not None:
            raise ValueError(
                f"model.pretrained_path ({self.pretrained_path!r}) and model.from_scratch are both "
                "given: set one of them to null"
            )
