"""What a finished training leaves: weights, curves, a summary and how each sample was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.artifacts import staging, write_csv, write_json
from stages.params.methods import Controlnet
from stages.tables import SCHEMA_VERSION
from stages.train.history import History, ValidationRow
from stages.train.method import Method
from stages.train.model import Model
from stages.train.sample_losses import MeanLosses
from stages.train.state import TrainState

TRAINED = pa.schema(  # one row a sample of the split "train", sorted by sample_id
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("num_visits", pa.int64(), nullable=False),  # how often it was trained on
        pa.field("mean_loss", pa.float64()),  # over its visits, without its weight; null: none
        pa.field("relative_loss", pa.float64()),  # over the usual at the same t; 1 is usual
    ],
    {"schema": "trained", "version": SCHEMA_VERSION},
)


@dataclass(frozen=True)
class Report:
    """What is said of a training beside its weights."""

    fingerprint: str
    weights_step: int  # after which the weights were as they are written
    times: Sequence[float]  # of the validation grid
    items: Sequence[str]  # of the validation grid
    visits: Mapping[str, int]  # how often each sample was trained on
    losses: Mapping[str, MeanLosses]  # of the samples that were
    controlnet: Controlnet | None = None  # how one was trained, if one was


def write_outputs(folder: Path, state: TrainState, method: Method, report: Report) -> None:
    """Write the folder `data/train` whole; nothing in it says when or where it was made.

    The first process writes, and the others have to take part.
    """
    with state.outcome() as model:
        if state.peers.is_first:
            _write(folder, state, method, report, model)


def _write(folder: Path, state: TrainState, method: Method, report: Report, model: Model) -> None:
    with staging(folder) as staged:
        staged.mkdir()
        method.save(model, staged / "weights")
        _write_curves(staged / "curves", state.history, report)
        _write_ledger(staged / "ledger.parquet", report)
        write_json(staged / "summary.json", _summary(state, report))


def _summary(state: TrainState, report: Report) -> dict[str, object]:
    editing = state.model.editing
    base, kept = _validations(state.history, report)
    return {
        "controlnet": None if report.controlnet is None else asdict(report.controlnet),
        "fingerprint": report.fingerprint,
        "num_images": len(report.visits),  # that could be trained on
        "num_parameters": state.holding.num_parameters,
        "steps": state.step,
        "time_offset": None if editing is None else editing.time_offset,  # None: the family's own
        "val_loss": kept.loss,
        "val_loss_base": base.loss,
        "weights_step": report.weights_step,
    }


def _write_curves(folder: Path, history: History, report: Report) -> None:
    header: list[str] = ["step", "loss", "lr", "grad_norm"]
    rows: list[tuple[float, ...]] = [row[:4] for row in history.losses]
    if any(row.class_loss for row in history.losses):
        header += ["loss_instance", "loss_class"]
        rows = [(*row[:4], row.loss - row.class_loss, row.class_loss) for row in history.losses]
    write_csv(folder / "loss.csv", header, rows)
    validations = [(row.step, row.loss) for row in history.validations]
    write_csv(folder / "val_loss.csv", ["step", "val_loss"], validations)
    base, kept = _validations(history, report)
    by_t = zip(report.times, base.by_t, kept.by_t, strict=True)
    write_csv(folder / "val_loss_by_t.csv", ["t", "base", "trained"], by_t)
    by_item = sorted(zip(report.items, base.by_item, kept.by_item, strict=True))
    write_csv(folder / "val_loss_by_item.csv", ["item", "base", "trained"], by_item)


def _validations(history: History, report: Report) -> tuple[ValidationRow, ValidationRow]:
    """Return the validation of the base, and that of the weights that are written."""
    rows = {row.step: row for row in history.validations}
    return history.validations[0], rows[report.weights_step]


def _write_ledger(path: Path, report: Report) -> None:
    rows = []
    for sample_id, visits in sorted(report.visits.items()):
        loss, relative = report.losses.get(sample_id, (None, None))
        row = {"sample_id": sample_id, "num_visits": visits}
        rows.append(row | {"mean_loss": loss, "relative_loss": relative})
    pq.write_table(pa.Table.from_pylist(rows, TRAINED), path, compression="zstd", version="2.6")
