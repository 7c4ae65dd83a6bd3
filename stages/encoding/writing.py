"""What the encoding stages do alike: probe the encoder, encode what is missing, keep the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from stages.artifacts import extra_metadata, read_table, write_table
from stages.encoding.batch import Encoder, Inputs, Item, Rows
from stages.encoding.missing import Count, Wanted, Work, encode_missing
from stages.rows import uses
from stages.rows.generation import Generation, encoder_generation, summary
from stages.rows.keys import row_key


@dataclass(frozen=True)
class Manifest:
    """The file that names the rows of a stage; with `fill` it is there and must not change.

    Attributes:
        path: of the parquet file.
        schema: its name in `tables.SCHEMAS`.
        stage: the stage that writes it.
        fill: encode what the store lacks of it, and write no file.
    """

    path: Path
    schema: str
    stage: str
    fill: bool

    def generation(
        self, root: str, encoder: Encoder[Item], probe: Inputs
    ) -> tuple[Generation, Rows]:
        """Encode `probe` (one item's inputs); return its generation and its row.

        Raises:
            ValueError: the manifest to fill was made by an encoder that behaves otherwise.
        """
        row = encoder.batches().encode_inputs([probe])
        values = summary(row)
        if not self.fill:
            name = row_key(**encoder.parts)
            return encoder_generation(root, name, values, encoder.tolerance), row
        known = Generation.from_metadata(extra_metadata(self._read()))
        if not known.gave(values, encoder.tolerance):
            raise ValueError(
                f"{self.path} names rows of an encoder that gave other values: {self._anew}"
            )
        return known, row

    def complete(
        self,
        root: str,
        table: pa.Table,
        metadata: dict[str, str],
        wanted: Sequence[Wanted[Item]],
        work: Work[Item],
    ) -> Count:
        """Encode what the store lacks, then write `table`; to fill, compare it first instead."""
        if self.fill:
            self._refuse_other_keys(table)
            return encode_missing(root, wanted, work, self.stage)
        uses.record(root, self.path, table)  # first, so that a clean-up meanwhile keeps its rows
        count = encode_missing(root, wanted, work, self.stage)
        write_table(self.path, table, self.schema, metadata)
        uses.record(root, self.path, table, count.encoded, count.reused)
        return count

    def _refuse_other_keys(self, table: pa.Table) -> None:
        known = set(self._read()["key"].to_pylist())
        found = set(table["key"].to_pylist())
        if known != found:
            raise ValueError(
                f"{self.path} names {len(known - found)} rows that its inputs and parameters no"
                f" longer give, and lacks {len(found - known)} that they give: {self._anew}"
            )

    @property
    def _anew(self) -> str:
        return f"run `dvc repro {self.stage}`, which writes it anew"

    def _read(self) -> pa.Table:
        return read_table(self.path, self.schema)
