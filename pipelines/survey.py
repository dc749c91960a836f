"""`Survey`: an input that was listed, and what a sample of its rows took; `clipmill plan` computes with it."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ..datasets.inputs.planning import plan_shards
from ..datasets.inputs.shards import Shard
from ..encoders import EncoderSpec
from ..errors import DatasetError, SpecError
from ..files.json_shape import fits, mismatches
from ..files.json_text import json_object
from ..jobs.measurement import ROUNDS, Measurement, measure
from ..jobs.options import JobOptions
from ..jobs.planning import plan_job
from ..jobs.sample import draw_pieces, estimate_rows, numbered
from ..models.support_matrix import processor
from ..threads import allowed_cpus
from .dry_run import sizes_of
from .first_use import load_shown
from .jobs import Planned, plan_input
from .options import ENGINES

_SHAPE: dict[str, Any] = {
    "model": str,
    "dim": lambda dim: isinstance(dim, int) and dim > 0,
    "dtype": lambda dtype: dtype in ("float32", "float16"),
    "processor": str,
    "shards": lambda count: isinstance(count, int) and count > 0,
    "rows_per_shard": lambda count: isinstance(count, int) and count > 0,
    "rows": lambda count: isinstance(count, int) and count > 0,
    "files": int,
    "nbytes": (int, None),
    "listing_s": float,
    "measured": lambda measured: fits(measured, {str: {}}) and bool(measured) and measured.keys() <= set(ENGINES),
}


_ENOUGH_FILES, _FILE_S = 10_000, 1 / 104_000
"""From how many files on the time to list them is measured well enough to scale it; else each takes so many seconds, as
measured on a million of them (docs/scale.md)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """An input, and what a sample of it took on this machine.

    Attributes:
        dim: Values of a vector.
        dtype: Their type in the files.
        processor: Name of this machine's processor, and its features that matter.
        shards: Shards of the input.
        rows: Rows of the input.
        files: Its files.
        nbytes: Their bytes; None if they are not known.
        listing_s: Seconds to list and cut the input, once, on the driver.
        measured: What the sample took, by engine.
    """

    model: str
    dim: int
    dtype: str
    processor: str
    shards: int
    rows_per_shard: int
    rows: int
    files: int
    nbytes: int | None
    listing_s: float
    measured: dict[str, Measurement]

    @classmethod
    def from_json(cls, path: str, content: bytes) -> Self:
        """Make a survey from what `clipmill plan --json` printed; `path` is for the message of a `DatasetError`."""
        found = json_object(content) or {}
        wrong = mismatches(found, _SHAPE)
        try:
            if wrong:
                raise ValueError(f"no survey has such values of {', '.join(wrong)}")
            measured = {name: Measurement.from_dict(one) for name, one in found["measured"].items()}
        except ValueError as err:
            raise DatasetError(f"{path} is not what clipmill plan --json prints: {err}") from None
        return cls(**{name: found[name] for name in _SHAPE} | {"measured": measured})

    def scaled(self, rows: int) -> Self:
        """Return the survey for as many rows of the same kind."""
        by = rows / self.rows
        files = max(1, round(self.files * by))
        is_cut = self.shards == -(-self.rows // self.rows_per_shard)  # by rows, and not at the ends of its files
        return dataclasses.replace(
            self,
            rows=rows,
            shards=-(-rows // self.rows_per_shard) if is_cut else max(1, round(self.shards * by)),
            files=files,
            nbytes=None if self.nbytes is None else round(self.nbytes * by),
            # most of the time for a few files is the beginning, which does not grow with them
            listing_s=self.listing_s * by
            if self.files >= _ENOUGH_FILES
            else self.listing_s + max(0, files - self.files) * _FILE_S,
        )


def read_survey(path: str) -> Survey:
    """Read what `clipmill plan --json` printed; raise `DatasetError` if it is something else."""
    try:
        content = Path(path).read_bytes()
    except OSError as err:
        raise DatasetError(f"{path} cannot be read: {err.strerror}") from None
    return Survey.from_json(path, content)


def survey(
    inputs: Sequence[str],
    spec: EncoderSpec,
    options: JobOptions,
    *,
    rows_per_shard: int,
    sample: int,
    engines: Sequence[str],
    rows: int | None = None,
) -> Survey:
    """List an input, and embed a sample of it on this machine; what is written is deleted.

    Args:
        inputs: As in `plan_shards`.
        spec: The encoder.
        options: Those of the job.
        rows_per_shard: Rows of a shard of the job.
        sample: Rows that each process embeds.
        engines: The engines whose workers are measured.
        rows: Rows of the whole input, of which `inputs` are a part; None if they are all.

    Raises:
        DatasetError: If the input cannot be listed, has no rows, or all rows of the sample fail.
        SpecError: If the options contradict the input, or its rows are not known.
    """
    with tempfile.TemporaryDirectory(prefix="clipmill-plan-") as folder:
        planned = plan_input(inputs, spec, options, folder, rows_per_shard=rows_per_shard)
        found = estimate_rows(planned.shards, planned.job, rows_per_shard=rows_per_shard)
        if found is None and rows is None:
            raise SpecError("only reading all of the input tells how many rows it has", hint="say it: --rows N")
        if found == 0:
            raise DatasetError("the input has no rows, so that there is nothing to measure")
        load_shown(spec)  # downloads, graphs and errors come here, where they are shown, and take no measured time
        measured = {}
        for number, engine in enumerate(engines):
            count = workers(engine, allowed_cpus())
            pieces, spec_of_pieces = _pieces(inputs, planned, spec, sample, count, found)
            job = plan_job(spec_of_pieces, f"{folder}/{number}", pieces, options)
            measured[engine] = measure(job, pieces, processes=count, cores=allowed_cpus())
    sizes = sizes_of(planned.shards)
    listed = Survey(
        model=spec.model,
        dim=int(spec.dim),
        dtype=options.written_dtype,
        processor=processor(),
        shards=len(planned.shards),
        rows_per_shard=rows_per_shard,
        rows=found or rows or 1,
        files=sizes["files"],
        nbytes=sizes["bytes"] if sizes["bytes_known"] else None,
        listing_s=planned.listing_s,
        measured=measured,
    )
    return listed if rows is None else listed.scaled(rows)


def workers(engine: str, cores: int) -> int:
    """Return how many processes of an engine share a machine: one of Beam's local runner, one of Spark per core."""
    return 1 if engine == "beam" else cores


def _pieces(
    inputs: Sequence[str], planned: Planned, spec: EncoderSpec, sample: int, processes: int, rows: int | None
) -> tuple[list[Shard], EncoderSpec]:
    """Return the pieces of a sample for so many processes, and the spec to embed them with.

    If there are too few shards, the input is cut into smaller ones. If that does not help, as with one compressed file,
    pieces are embedded several times, with a spec that does not reuse the vectors of equal values.
    """
    wanted = processes * (ROUNDS + 1)
    piece_rows = max(1, -(-sample // ROUNDS))
    if rows is not None:
        piece_rows = min(piece_rows, max(1, rows // wanted))
    shards = planned.shards
    if len(shards) < wanted:
        shards = plan_shards(inputs, rows_per_shard=piece_rows)
    pieces = draw_pieces(shards, wanted, piece_rows)
    if len(pieces) < wanted:
        spec = dataclasses.replace(spec, max_cache_bytes=0)
        pieces = list(itertools.islice(itertools.cycle(pieces), wanted))
    return numbered(pieces), spec
