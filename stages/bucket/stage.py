"""Choose for each picture the sizes it is trained at: resize to cover a bucket, cut the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stages.artifacts import write_csv, write_table
from stages.bucket import report
from stages.bucket.choice import Choice, Ladders, Listed
from stages.bucket.geometry import Crop
from stages.bucket.merge import Placed, count_training, merge
from stages.bucket.roles import problem
from stages.bucket.rows import buckets_table, ledger_table
from stages.bucket.samples import Sample, read_samples
from stages.params.read import key
from stages.visit_geometry import Drawn


@dataclass(frozen=True)
class Params:
    """Which buckets there are, and what of a picture goes into one."""

    resolution: int = key("data.resolution")  # a bucket has at most its square pixels
    resolutions: Sequence[int] = key("data.resolutions")  # more of them
    steps: int = key("data.bucket_resolution_steps")  # sides are multiples of it
    min_side: int = key("data.min_bucket_resolution")
    max_side: int = key("data.max_bucket_resolution")
    buckets: Sequence[str] = key("data.buckets")  # "64x32", instead of all the above
    no_upscale: bool = key("data.no_upscale")
    small_buckets: str = key("data.small_buckets")  # "keep" | "merge"
    min_bucket_images: int = key("data.min_bucket_images")
    crop: str = key("data.crop")  # one of geometry.CORNERS
    crop_variants: int = key("data.crop_variants")
    flip: bool = key("data.flip")
    seed: int = key("data.seed")  # of random crops
    is_cached: bool = key("data.cache_latents")  # else training draws crops and mirrorings


@dataclass(frozen=True)
class Artifacts:
    """Samples that have a caption in; their geometry, a report and the fate of each out."""

    images: Path = Path("data/images.parquet")
    captions: Path = Path("data/captions.parquet")
    buckets: Path = Path("data/buckets.parquet")
    report: Path = Path("data/reports/buckets.csv")
    ledger: Path = Path("data/ledger/bucket.parquet")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Write the geometry of all samples that fit a bucket, the report on buckets and the ledger."""
    samples = read_samples(artifacts.images, artifacts.captions)
    choice = create_choice(params)
    placed, excluded = place(samples, choice)
    if not placed:
        first = min((each.target for each in samples), key=lambda target: target.path)
        raise ValueError(
            f"{artifacts.images}: none of {len(samples)} pictures fits a bucket: {first.path} is "
            f"left out because {excluded[first.sample_id]}; set data.no_upscale to false, or "
            "give smaller buckets"
        )
    if params.small_buckets == "merge":
        placed = merge(placed, params.min_bucket_images, params.no_upscale, params.resolution)
    table = buckets_table(placed, choice, create_crop(params))
    drawn = Drawn(params.crop == "random", params.flip)
    extra = {} if params.is_cached else drawn.to_metadata()
    write_table(artifacts.buckets, table, "buckets", extra)
    rows = report.report(placed, params.min_bucket_images)
    write_csv(artifacts.report, report.COLUMNS, rows)
    write_table(artifacts.ledger, ledger_table(samples, excluded), "ledger")
    print(told(placed, excluded, params, artifacts))  # noqa: T201


def create_crop(params: Params) -> Crop:
    """Return the crops of a picture that are rows: one where each visit draws its own."""
    if params.is_cached:
        return Crop(params.crop, params.crop_variants, params.flip, params.seed)
    return Crop(params.crop, 1, False, params.seed)


def create_choice(params: Params) -> Choice:
    """Return the buckets that the user lists, or else those of the resolutions."""
    if not params.buckets:
        sides = (params.steps, params.min_side, params.max_side)
        return Ladders(params.resolution, tuple(params.resolutions), *sides, params.no_upscale)
    sizes = [tuple(map(int, bucket.split("x"))) for bucket in params.buckets]
    return Listed(params.resolution, tuple((w, h) for w, h in sizes), params.no_upscale)


def place(samples: Sequence[Sample], choice: Choice) -> tuple[list[Placed], dict[str, str]]:
    """Put each sample into its buckets, or say by sample id why it is left out."""
    placed, excluded = [], {}
    buckets_of = cache(choice.of_target)
    for sample in samples:
        target = sample.target
        buckets = buckets_of(target.size)
        if not buckets:
            reason = f"it is {target.width}x{target.height} pixels, {choice.too_small}"
        else:
            reason = problem(sample, buckets, choice)
        if reason:
            excluded[target.sample_id] = reason
        else:
            placed.append(Placed(sample, buckets))
    return placed, excluded


def told(
    placed: Sequence[Placed], excluded: Mapping[str, str], params: Params, artifacts: Artifacts
) -> str:
    """Return the stage's line: how many pictures are where, and what to look at."""
    buckets = {bucket for each in placed for bucket in each.buckets.values()}
    line = f"{len(placed)} pictures in {len(buckets)} buckets, {len(excluded)} excluded"
    if params.small_buckets == "merge":
        counts = count_training(placed)
        small = sum(counts[bucket] < params.min_bucket_images for bucket in buckets)
        line += (
            f", {sum(bool(each.moved) for each in placed)} moved out of small buckets; {small} "
            f"buckets stay below data.min_bucket_images ({params.min_bucket_images})"
        )
    return f"{line}: see {artifacts.report} and {artifacts.ledger}"
