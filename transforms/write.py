"""`WriteEmbeddings`: vectors or scores as Parquet with their provenance, failures as JSON lines, in one directory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection
from apache_beam.transforms.combiners import Count
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints import arrow_type_compatibility, schemas
from apache_beam.typehints.row_type import RowTypeConstraint

from ..datasets.dataset import write_job
from ..datasets.directory import JOB, prepare_directory
from ..datasets.tables.schemas import documents_schema, rows_schema
from ..datasets.tables.table import Table
from ..encoders.plans.plan import RowPlan
from ..errors import SpecError, check_integer
from ..files.file_systems import Folder
from .bundles import FinishFn, PublishFn, WriteBundleFn, remove_staging
from .embed import embed_of
from .encoding import Embedded, Encoding
from .rows import is_array, row_fields
from .templates import with_known_values

_ROWS_PER_FILE = 50_000
"""100 MB of 512 float32: large enough for an object store, small enough to be read by one worker."""


class WriteEmbeddings(beam.PTransform):
    """Writes the output of `Embed`, `Rank` or `Classify` to a directory: the pair, or one of its PCollections.

    Rows go to Parquet files with their other columns, failures to `_failures/*.jsonl`, which `clipmill embed` reads to
    try them again; those of single candidates too. Every file says in its metadata which model and which options made
    its vectors or scores. Files appear whole,
    and none of them twice, even if the runner retries; see `bundles`. When a bounded pipeline is done, the directory
    gets `_SUCCESS`; an unbounded one keeps writing files for each window and bundle.

    Gives the names of the Parquet files.

    >>> import apache_beam as beam
    >>> from clipmill.datasets import read_dataset
    >>> from clipmill.transforms import Document, Embed, WriteEmbeddings
    >>> with beam.Pipeline() as p:
    ...     documents = p | beam.Create([Document(id="a", text="a red circle"), Document(id="b")])
    ...     _ = documents | Embed("demo") | WriteEmbeddings("vectors")
    >>> read_dataset("vectors")["id"].to_pylist()  # b has no content: it is in vectors/_failures
    ['a']
    """

    @with_known_values
    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        embed: Encoding | None = None,
        schema: pa.Schema | None = None,
        drop: Sequence[str] = (),
        tags: Mapping[str, pa.DataType] | None = None,
        dtype: str = "float32",
        rows_per_file: int = _ROWS_PER_FILE,
        overwrite: bool = False,
    ) -> None:
        """Set what is written where. The directory is checked when the pipeline is built.

        Args:
            directory: Path or URL that fsspec can write; empty or new.
            embed: The transform that made the vectors or scores, if there are other steps between it and this one.
            schema: The columns that dicts had before that, since no file may guess its own. Documents, and rows with a
                schema, need none.
            drop: Columns of rows that are not written, such as the images.
            tags: Tags of documents that become columns of these types; the others are in the column `tags` as JSON.
            dtype: `float32`, or `float16`, which Spark cannot read.
            rows_per_file: Most rows in a file.
            overwrite: Whether an older dataset in the directory is removed when the pipeline is built.

        Raises:
            SpecError: If something cannot work.
        """
        super().__init__()
        check_integer("rows_per_file", rows_per_file)
        place: str = os.fspath(directory)
        self._directory = place if "://" in place else os.path.abspath(os.path.expanduser(place))
        self._embed = embed
        self._schema = schema
        self._drop = tuple(drop)
        self._tags = tags
        self._dtype = dtype
        self._rows_per_file = rows_per_file
        self._overwrite = overwrite

    def default_label(self) -> str:
        """Name the directory, so that a pipeline can use two of these."""
        return f"WriteEmbeddings({self._directory})".replace("/", "_")  # a slash would make a level of it

    def expand(self, embedded: Embedded | PCollection) -> PCollection:
        """Check and prepare the directory, then write, spread the names, publish.

        Raises:
            SpecError: If it is not known what made the vectors or scores, or which columns there are.
            DatasetError: If the directory holds something already.
        """
        inputs = list(embedded) if isinstance(embedded, tuple) else [embedded]
        embed = self._embed or embed_of(inputs[0])
        if embed is None:
            raise SpecError("which model made these vectors or scores? give the transform: WriteEmbeddings(…, embed=…)")
        table = self._table(embed, inputs[0].element_type)
        folder = Folder.of(self._directory)
        if self._overwrite and folder.fs.exists(folder.at(JOB)):
            remove_staging(folder)  # of an unfinished job: the directory is one of our datasets
        prepare_directory(self._directory, overwrite=self._overwrite, can_resume=False)
        write_job(self._directory, self._description(embed))
        run = uuid.uuid4().hex
        write = WriteBundleFn(self._directory, run, table, embed.spec, self._rows_per_file)
        # each for itself, behind the step that made it: put together first, all rows would be held between two stages
        written = [
            pcoll | f"Write{number or ''}" >> beam.ParDo(write).with_output_types(dict[str, Any])
            for number, pcoll in enumerate(inputs)
        ]
        together = written[0] if len(written) == 1 else written | "Together" >> beam.Flatten()
        published = (
            together
            | "OnceOnly" >> beam.Reshuffle()
            | "Publish" >> beam.ParDo(PublishFn(self._directory, run)).with_output_types(dict[str, Any])
        )
        if together.is_bounded:
            _ = (
                published
                | "AllWindows" >> beam.WindowInto(GlobalWindows())
                | "Wait" >> Count.Globally()
                | "Finish" >> beam.ParDo(FinishFn(self._directory, run, table.schema))
            )
        directory = self._directory
        return published | "Names" >> beam.Map(lambda m: f"{directory}/{m['files'][0]['name']}").with_output_types(str)

    def _table(self, embed: Encoding, element_type: Any) -> Table:
        plan: Any = embed.plan
        if not plan.of_rows:
            if self._schema is not None or self._drop:
                raise SpecError("schema and drop are for rows; documents have their own columns (see tags)")
            schema = documents_schema(embed.spec, tags=self._tags, dtype=self._dtype, plan=plan)
            return Table(plan, schema, embed.spec.dim)
        if self._tags is not None:
            raise SpecError("tags are for documents; rows have their own columns")
        base = self._schema if self._schema is not None else _arrow_schema(element_type, plan, self._drop)
        schema = rows_schema(base, plan, embed.spec, drop=self._drop, dtype=self._dtype)
        return Table(plan, schema, embed.spec.dim)

    def _description(self, embed: Encoding) -> dict[str, Any]:
        return {"spec": embed.spec.as_dict(), "dtype": self._dtype, **embed.plan.description()}


def _arrow_schema(element_type: Any, plan: RowPlan, drop: Sequence[str]) -> pa.Schema:
    """Return the columns that are carried along, in Arrow's types, of rows with a schema."""
    fields = row_fields(element_type)
    if fields is None:
        raise SpecError(
            "dicts have no schema, and none is guessed from the data: give WriteEmbeddings(…, schema=pa.schema([…]))"
            " of the columns that they had before they were embedded"
        )
    arrow = [_arrow_field(name, kind, drop) for name, kind in fields if name not in plan.new_names]
    return pa.schema(arrow)


def _arrow_field(name: str, kind: Any, drop: Sequence[str]) -> pa.Field:
    try:
        one: Any = RowTypeConstraint.from_fields([(name, kind)])
        row_type = schemas.typing_to_runner_api(one).row_type
        return arrow_type_compatibility.arrow_schema_from_beam_schema(row_type.schema).field(0).remove_metadata()
    except (TypeError, ValueError, NotImplementedError) as err:
        if name in drop:  # it need not be written, and only whether it is an array decides about its vectors
            return pa.field(name, pa.list_(pa.binary()) if is_array(kind) else pa.binary())
        raise SpecError(f"column {name!r} is {kind}, which has no type in Arrow; give schema=, or drop it") from err
