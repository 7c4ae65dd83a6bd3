"""Export: assemble, prove, and copy to the user's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelzoo.families import family
from stages import launch
from stages.artifacts import read_json, sha256_file, staging, write_json
from stages.export.bundle import assemble, base_digests
from stages.export.delivery import birth_record, check_destination, deliver
from stages.export.proof import prove
from stages.params.outputs import Export
from stages.params.read import key
from stages.params.tracking import Tracking
from stages.tracking import MlflowRun, find_run


@dataclass(frozen=True)
class Params:
    """What this stage reads of params.yaml."""

    family: str = key("model.type")
    dtype: str = key("model.dtype")
    export: Export = key("export")  # its one format is the one below
    output_dir: str = key("experiment.output_dir")
    threads: int = key("hardware.threads", tracked=False)
    tracking: Tracking = key("tracking", tracked=False)


@dataclass(frozen=True)
class Artifacts:
    """What is exported, and what it came from."""

    trained: Path = Path("data/train/weights")
    summary: Path = Path("data/train/summary.json")
    images: Path = Path("data/images.parquet")
    base: Path = Path("data/base")
    export: Path = Path("data/export")
    proof: Path = Path("data/export_proof.json")
    lock: Path = Path("dvc.lock")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Write the diffusers folder, its proof, and the user's copy.

    Raises:
        ValueError: The user's folder holds something else, or the export is not what was trained.
    """
    destination = Path(params.output_dir)
    check_destination(destination, artifacts.export)
    launch.use_threads(params.threads)
    fingerprint = read_json(artifacts.summary)["fingerprint"]
    upstream = {
        "training_fingerprint": fingerprint,
        "dataset_digest": sha256_file(artifacts.images),
        **{f"base.{part}": digest for part, digest in base_digests(artifacts.base).items()},
    }
    kind = family(params.family)
    with staging(artifacts.export) as staged:
        assemble(staged, artifacts.trained, artifacts.base, kind.folder, upstream)
        proof = prove(staged, artifacts.trained, artifacts.base, params.family, params.dtype)
    write_json(artifacts.proof, {**proof, "upstream": upstream})
    found = find_run(params.tracking, fingerprint)
    run_id = found.run_id if isinstance(found, MlflowRun) else None
    birth = birth_record(artifacts.lock, run_id)
    deliver(artifacts.export, destination, {**birth, "digests": proof["digests"]})
    print(f"exported and proven: {destination}", flush=True)  # noqa: T201
