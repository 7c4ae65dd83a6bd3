"""Section `data`: the dataset, its buckets, and how much of it may be unusable."""

from __future__ import annotations

from dataclasses import dataclass

from stages.params.schema import number


@dataclass(frozen=True)
class Data:
    """The dataset that is trained on."""

    train_path: str  # folder with metadata.json or pictures with caption files beside them
    caption_extension: str = ".txt"  # of a caption file beside its picture
    resolution: int = number(1024, at_least=1)  # pixels; a bucket's area is at most its square
    bucket_resolution_steps: int = number(64, at_least=1)  # pixels; bucket sides are multiples
    min_bucket_resolution: int = number(512, at_least=1)  # pixels of the shorter side
    max_bucket_resolution: int = number(2048, at_least=1)  # pixels of the longer side
    no_upscale: bool = True  # smaller pictures go to smaller buckets
    validation_fraction: float = number(0.03, at_least=0, below=1)  # of the pictures, by content
    max_bad_fraction: float = number(0.02, at_least=0, at_most=1)  # unreadable; above: failure
    max_missing_caption_fraction: float = number(0.02, at_least=0, at_most=1)  # above: failure
    cache_latents: bool = True  # encode once and keep the rows
    store: str | None = None  # place of the row store; null: beside DVC's cache
    cache_dir: str | None = None  # another name of data.store, which `use` moves it into

    def __post_init__(self) -> None:
        """Refuse sizes that no bucket can have, and two stores."""
        step, smallest = self.bucket_resolution_steps, self.min_bucket_resolution
        for name in ("resolution", "min_bucket_resolution", "max_bucket_resolution"):
            if (pixels := getattr(self, name)) % step:
                raise ValueError(
                    f"data.{name}: {pixels} given, a multiple of data.bucket_resolution_steps "
                    f"({step}) expected"
                )
        if not smallest <= self.resolution <= self.max_bucket_resolution:
            raise ValueError(
                f"data.resolution: {self.resolution} given, between data.min_bucket_resolution "
                f"({smallest}) and data.max_bucket_resolution ({self.max_bucket_resolution}) "
                "expected"
            )
        if None not in (self.store, self.cache_dir) and self.store != self.cache_dir:
            raise ValueError(
                f"data.store ({self.store!r}) and data.cache_dir ({self.cache_dir!r}) are two "
                "names of one place and differ: set data.cache_dir to null"
            )
        if not self.caption_extension.startswith("."):
            raise ValueError(
                f"data.caption_extension: {self.caption_extension!r} given, an extension with "
                "its dot such as '.txt' expected"
            )
