"""Export: assemble, prove, and copy to the user's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from modelzoo.adapters.files import is_adapter
from modelzoo.control_lora import is_control_lora
from modelzoo.families import family
from stages import launch
from stages.artifacts import read_json, sha256_file, staging, write_json
from stages.delivery import EXPORT, birth_record, check_destination, deliver
from stages.export.adapters import export_adapters
from stages.export.bundle import NO_TEXT, assemble, base_digests
from stages.export.control_lora import export_control_lora
from stages.export.controlnet import export_controlnet
from stages.export.merged import merge_into
from stages.export.proof import prove
from stages.params.outputs import Export
from stages.params.read import key
from stages.params.tracking import Tracking
from stages.tracking import MlflowRun, find_run
from stages.trained import is_controlnet


@dataclass(frozen=True)
class Params:
    """What this stage reads of params.yaml."""

    family: str = key("model.type")
    dtype: str = key("model.dtype")
    export: Export = key("export")
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
    export: Path = EXPORT
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
    with staging(artifacts.export) as staged:
        proof = _write(staged, params, artifacts, upstream)
    write_json(artifacts.proof, {**proof, "upstream": upstream})
    found = find_run(params.tracking, fingerprint)
    run_id = found.run_id if isinstance(found, MlflowRun) else None
    birth = birth_record(artifacts.lock, run_id)
    deliver(artifacts.export, destination, {**birth, "digests": proof["digests"]})
    print(f"exported and proven: {destination}", flush=True)  # noqa: T201


def _write(
    staged: Path, params: Params, artifacts: Artifacts, upstream: Mapping[str, str]
) -> dict[str, Any]:
    """Write what was trained, alone or in a whole model, and return the proof."""
    trained, base = artifacts.trained, artifacts.base
    if is_controlnet(family(params.family), trained):
        return export_controlnet(staged, trained, base, params.family, params.dtype, upstream)
    if is_control_lora(trained):
        return export_control_lora(staged, trained, base, params.family, params.dtype, upstream)
    if not is_adapter(trained):
        return _write_model(staged, trained, params, artifacts, upstream)
    if not params.export.merge:
        forms = params.export.lora_formats
        return export_adapters(staged, trained, base, params.family, params.dtype, forms, upstream)
    artifacts.export.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=artifacts.export.parent) as temporary:
        merged = merge_into(Path(temporary), trained, base, params.family, params.dtype)
        proof = _write_model(staged, merged.denoiser, params, artifacts, upstream, merged.text)
    proof["largest_difference"]["merged"] = merged.difference
    return proof


def _write_model(
    staged: Path,
    weights: Path,
    params: Params,
    artifacts: Artifacts,
    upstream: Mapping[str, str],
    text: Mapping[str, Path] = NO_TEXT,
) -> dict[str, Any]:
    """Write a whole model; `text` has text encoders other than the base's, by their names."""
    assemble(staged, weights, artifacts.base, family(params.family).folder, upstream, text)
    return prove(staged, weights, artifacts.base, params.family, params.dtype, text)
