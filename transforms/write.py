"""`WriteEmbeddings`: vectors or scores as Parquet with their provenance, failures as JSON lines, in one directory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsSingleton, PCollection
from apache_beam.transforms.combiners import Count
from apache_beam.transforms.window import GlobalWindows
from apache_beam.typehints import arrow_type_compatibility, schemas
from apache_beam.typehints.row_type import RowTypeConstraint

from ..datasets.if_exists import IfExists, if_exists_of
from ..datasets.tables.schemas import documents_schema, rows_schema
from ..datasets.tables.table import Table
from ..encoders.plans.plan import RowPlan
from ..errors import SpecError, check_integer
from ..files.file_systems import absolute, check_location
from ..files.hub import check_is_no_hub
from ..messages import setting
from .bundles import FinishFn, PublishFn, WriteBundleFn
from .embed import embed_of
from .encoding import Embedded, Encoding
from .prepare import PrepareOutput
from .rows import is_array, row_fields
from .templates import with_known_values

_ROWS_PER_FILE = 50_000
"""100 MB of 512 float32: large enough for an object store, small enough to be read by one worker."""


class WriteEmbeddings(beam.PTransform):
    """Writes the output of `Embed`, `Rank`, `Similarity` or `Classify` to a directory, or one of its PCollections.

    Rows go to Parquet files with their other columns, failures to `_failures/*.jsonl`, which `clipmill embed` reads to
    try them again; those of single candidates too. Rows that `Similarity` rejected go to `_rejected/*.parquet`. Every
    file of rows says in its metadata which model and which options made its vectors or scores. Files appear whole, and
    none of them twice, even if the runner retries; see `bundles`. When a bounded pipeline is done, the directory gets
    `_SUCCESS`; an unbounded one keeps writing files for each window and bundle.

    Building the pipeline reads and writes nothing. The directory is checked and prepared by the first step of each run,
    and a dataset that is replaced stays as it is until the new one is whole (until then, that one is in `_next/`).

    Gives the names of the Parquet files: of a bounded pipeline, when the dataset is whole.

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
        if_exists: IfExists | None = None,
        overwrite: bool = False,
    ) -> None:
        """Set what is written where. Nothing is read or written before the pipeline runs.

        Args:
            directory: Path or URL that fsspec can write.
            embed: The transform that made the vectors or scores, if there are other steps between it and this one.
            schema: The columns that dicts had before that, since no file may guess its own. Documents, and rows with a
                schema, need none.
            drop: Columns of rows that are not written, such as the images.
            tags: Tags of documents that become columns of these types; the others are in the column `tags` as JSON.
            dtype: `float32`, or `float16`, which Spark cannot read.
            rows_per_file: Most rows in a file.
            if_exists: What a run does with a dataset in the directory. `fail`, the default, ends the job before the
                first row. `replace` replaces it when the new one is whole. `replace_unfinished` replaces only one that
                has no `_SUCCESS`, because its job failed. Both are for bounded pipelines, whose datasets become whole.
                `resume` is for unbounded ones: they add to what an earlier run with the same options wrote.
            overwrite: Short for `if_exists="replace"`.

        Raises:
            SpecError: If something cannot work.
        """
        super().__init__()
        check_integer("rows_per_file", rows_per_file)
        self._directory = absolute(os.fspath(directory))
        check_location(self._directory)
        check_is_no_hub(self._directory)
        self._embed = embed
        self._schema = schema
        self._drop = tuple(drop)
        self._tags = tags
        self._dtype = dtype
        self._rows_per_file = rows_per_file
        self._if_exists = if_exists_of(if_exists, overwrite=overwrite)

    def default_label(self) -> str:
        """Name the directory, so that a pipeline can use two of these."""
        return f"WriteEmbeddings({self._directory})".replace("/", "_")  # a slash would make a level of it

    def expand(self, embedded: Embedded | PCollection) -> PCollection:
        """Prepare the directory, then write, spread the names, publish.

        Raises:
            SpecError: If it is not known what made the vectors or scores, which columns there are, or if `if_exists`
                does not fit the input.
        """
        inputs = list(embedded) if isinstance(embedded, tuple) else [embedded]
        embed = self._embed or embed_of(inputs[0])
        if embed is None:
            raise SpecError("which model made these vectors or scores? give the transform: WriteEmbeddings(…, embed=…)")
        table = self._table(embed, inputs[0].element_type)
        is_bounded = all(pcoll.is_bounded for pcoll in inputs)
        _check_if_exists(self._if_exists, is_bounded=is_bounded)
        prepare = PrepareOutput(self._directory, self._description(embed, table), self._if_exists)
        output = AsSingleton(inputs[0].pipeline | "Prepare" >> prepare)
        write = WriteBundleFn(table, embed.spec, self._rows_per_file, is_bounded=is_bounded)
        publish = PublishFn(is_bounded=is_bounded)
        # each for itself, behind the step that made it: put together first, all rows would be held between two stages
        written = [
            pcoll | f"Write{number or ''}" >> beam.ParDo(write, output).with_output_types(dict[str, Any])
            for number, pcoll in enumerate(inputs)
        ]
        together = written[0] if len(written) == 1 else written | "Together" >> beam.Flatten()
        published = (
            together
            | "OnceOnly" >> beam.Reshuffle()
            | "Publish" >> beam.ParDo(publish, output).with_output_types(dict[str, Any])
        )
        names = published | "Names" >> beam.Map(_name, self._directory).with_output_types(str)
        if not is_bounded:
            return names
        finished = (
            published
            | "AllWindows" >> beam.WindowInto(GlobalWindows())
            | "Wait" >> Count.Globally()
            | "Finish" >> beam.ParDo(FinishFn(self._directory, table.schema), output).with_output_types(str)
        )
        return names | "Whole" >> beam.Map(_first, AsSingleton(finished)).with_output_types(str)

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

    def _description(self, embed: Encoding, table: Table) -> dict[str, Any]:
        written = {field.name: str(field.type) for field in table.schema}
        return {"spec": embed.spec.as_dict(), "dtype": self._dtype, "written": written, **embed.plan.description()}


def _check_if_exists(if_exists: IfExists, *, is_bounded: bool) -> None:
    """Refuse what cannot be done with such an input."""
    if is_bounded and if_exists == "resume":
        raise SpecError(
            setting("if_exists", if_exists) + " cannot continue a bounded pipeline: its input is read again from the "
            "start, and which rows an earlier run has written is not known, so that they would be there twice",
            hint="start anew with "
            + setting("if_exists", "replace_unfinished")
            + ", or use clipmill embed, which resumes shard by shard",
        )
    if not is_bounded and if_exists in ("replace", "replace_unfinished"):
        raise SpecError(
            setting("if_exists", if_exists) + " cannot be kept for an unbounded pipeline: an old dataset is replaced "
            "when the new one is whole, and a stream's never is",
            hint="add to the dataset with " + setting("if_exists", "resume") + ", or choose another directory",
        )


def _name(manifest: Mapping[str, Any], directory: str) -> str:
    return f"{directory}/{manifest['files'][0]['name']}"


def _first(name: str, _: Any) -> str:
    return name


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
