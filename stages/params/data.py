"""Section `data`: the datasets, their buckets, and how much of them may be unusable."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from stages.params.captions import Captions
from stages.params.schema import choice, number

BUCKET = re.compile(r"([1-9]\d*)x([1-9]\d*)")  # width x height in pixels


@dataclass(frozen=True)
class Dataset:
    """One of several datasets below data.train_path."""

    path: str  # folder, .tar shard or metadata table, relative to data.train_path
    repeats: int = number(1, at_least=1)  # visits to each of its pictures in an epoch
    weight: float = number(1.0, above=0)  # of the loss of its pictures
    split: str = choice("auto", "auto", "train", "validation")  # auto: by content


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    train_path: str  # folder of pictures with captions, in any form that docs/data.md lists
    datasets: list[Dataset] = field(default_factory=list)  # below train_path; []: it is one
    caption_extension: str = ".txt"  # of a caption file beside its picture
    captions: Captions = Captions()  # how captions are read, varied and checked
    references: list[str] = field(default_factory=list)  # columns, or folders beside the pictures
    mask: str | None = None  # column, or folder beside the pictures; white is what changes
    condition: str | None = None  # column, or folder beside the pictures
    ignore_columns: list[str] = field(default_factory=list)  # of a metadata table
    allow_outside: bool = False  # read pictures that lie outside the dataset, links included
    background: str = "white"  # colour under transparent pixels, any that Pillow knows
    max_pixels: int = number(178956970, at_least=1)  # of a picture; above: quarantined
    resolution: int = number(1024, at_least=1)  # pixels; a bucket's area is at most its square
    resolutions: list[int] = number([], at_least=1)  # more of them; each picture is at each
    bucket_resolution_steps: int = number(64, at_least=1)  # pixels; bucket sides are multiples
    min_bucket_resolution: int = number(512, at_least=1)  # pixels of the shorter side
    max_bucket_resolution: int = number(2048, at_least=1)  # pixels of the longer side
    buckets: list[str] = field(default_factory=list)  # such as 832x1216; []: from the keys above
    no_upscale: bool = True  # smaller pictures go to smaller buckets
    small_buckets: str = choice("keep", "keep", "merge")  # those below min_bucket_images
    min_bucket_images: int = number(1, at_least=1)  # pictures to train on in a bucket
    crop: str = choice("center", "center", "random", "focal")  # what of a picture is kept
    crop_variants: int = number(1, at_least=1)  # random crops of each picture, each a cached row
    flip: bool = False  # mirrored rows too: twice as many; not cached: half of the visits
    seed: int = number(0, at_least=0)  # of random crops, shuffled tags and wildcards
    validation_fraction: float = number(0.03, at_least=0, below=1)  # of the pictures, by content
    exact_duplicates: str = choice("keep", "keep", "exclude")  # all but one of equal samples
    near_duplicate_bits: int | None = number(
        4, at_least=0, at_most=16
    )  # of 64 in which perceptual hashes may differ; null: not looked for
    leakage: str = choice("report", "report", "exclude")  # near duplicates of training pictures
    max_bad_fraction: float = number(0.02, at_least=0, at_most=1)  # unreadable; above: failure
    max_missing_caption_fraction: float = number(0.02, at_least=0, at_most=1)  # above: failure
    cache_latents: bool = True  # encode once and keep the rows; false: at each visit, in training
    store: str | None = None  # place of the row store; null: beside DVC's cache
    cache_dir: str | None = None  # another name of data.store, which `use` moves it into

    @property
    def roles(self) -> list[str]:
        """Name the columns or folders of references, masks and conditions."""
        others = [name for name in (self.mask, self.condition) if name is not None]
        return [*self.references, *others]

    def __post_init__(self) -> None:
        """Refuse sizes that no bucket can have, two stores, and settings nothing would read."""
        self._hold_sizes()
        self._hold_crops()
        self._hold_names()
        if None not in (self.store, self.cache_dir) and self.store != self.cache_dir:
            raise ValueError(
                f"data.store ({self.store!r}) and data.cache_dir ({self.cache_dir!r}) are two "
                "names of one place and differ: set data.cache_dir to null"
            )

    def _hold_sizes(self) -> None:
        step, smallest = self.bucket_resolution_steps, self.min_bucket_resolution
        names = ("resolution", "min_bucket_resolution", "max_bucket_resolution")
        sides = {f"data.{name}": getattr(self, name) for name in names}
        areas = {"data.resolution": self.resolution}
        areas |= {f"data.resolutions[{i}]": each for i, each in enumerate(self.resolutions)}
        for name, pixels in (sides | areas).items():
            if pixels % step:
                raise ValueError(
                    f"{name}: {pixels} given, a multiple of data.bucket_resolution_steps "
                    f"({step}) expected"
                )
        for name, pixels in areas.items():
            if not smallest <= pixels <= self.max_bucket_resolution:
                raise ValueError(
                    f"{name}: {pixels} given, between data.min_bucket_resolution "
                    f"({smallest}) and data.max_bucket_resolution ({self.max_bucket_resolution}) "
                    "expected"
                )
        if repeated := [n for n, times in Counter(areas.values()).items() if times > 1]:
            raise ValueError(
                f"data.resolutions: {repeated[0]} given twice (data.resolution counts): list each "
                "once"
            )
        for index, bucket in enumerate(self.buckets):
            match = BUCKET.fullmatch(bucket)
            if match is None or any(int(side) % step for side in match.groups()):
                raise ValueError(
                    f"data.buckets[{index}]: {bucket!r} given, WIDTHxHEIGHT in multiples of "
                    f"data.bucket_resolution_steps ({step}) expected"
                )
        if self.buckets and self.resolutions:
            raise ValueError(
                "data.buckets and data.resolutions are both given: list all sizes in data.buckets"
            )

    def _hold_crops(self) -> None:
        if self.crop_variants > 1 and self.crop != "random":
            raise ValueError(
                f"data.crop_variants: {self.crop_variants} given, but data.crop {self.crop!r} "
                "gives the same each time: set data.crop to 'random'"
            )
        if self.crop_variants > 1 and not self.cache_latents:
            raise ValueError(
                f"data.crop_variants: {self.crop_variants} given, but without data.cache_latents "
                "each visit draws a crop of its own: set crop_variants to 1"
            )
        if self.min_bucket_images > 1 and self.small_buckets == "keep":
            raise ValueError(
                f"data.min_bucket_images: {self.min_bucket_images} given, but data.small_buckets "
                "is 'keep': set it to 'merge'"
            )

    def _hold_names(self) -> None:
        if not self.caption_extension.startswith("."):
            raise ValueError(
                f"data.caption_extension: {self.caption_extension!r} given, an extension with "
                "its dot such as '.txt' expected"
            )
        repeated = [name for name, times in Counter(self.roles).items() if times > 1]
        if repeated:
            raise ValueError(
                f"data.references, data.mask and data.condition name {repeated[0]!r} twice: give "
                "each its own column or folder"
            )
        paths = Counter(each.path.strip("/") for each in self.datasets)
        if twice := [path for path, times in paths.items() if times > 1]:
            raise ValueError(
                f"data.datasets: {twice[0]!r} is listed twice: list it once, with repeats"
            )
