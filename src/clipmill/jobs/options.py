"""`JobOptions`: the options of a job, shared by the command line, Python callers, Beam and Spark."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..datasets.formats.base import FORMATS, Format, default_dtype
from ..datasets.inputs.readers import DEFAULT_READER, ReaderOptions
from ..datasets.tables.vectors import vector_type
from ..encoders.plans.document_embed_plan import DocumentEmbedPlan
from ..encoders.plans.plan import Plan
from ..errors import SpecError, check_choice
from ..files.file_systems import absolute
from ..messages import setting
from .skip_existing import SkipExisting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """The plan of a job, how its input is read, and what is written.

    Attributes:
        plan: The plan, checked for the spec; embeds documents by default.
        reader: The columns that documents are made of; rows have all columns.
        drop: Columns of rows that are left out of the output.
        format: What the files are: `parquet`; `jsonl`, a JSON object for each row; `clip-retrieval`, `lance` or
            `webdataset`.
        dtype: `float32` or `float16`; None is float16 for clip-retrieval's layout and float32 otherwise.
        content_hash: Whether a column `content_hash` is written, the SHA-256 of each row's content.
        skip_existing: Datasets whose rows are skipped; if the match key is the content, `content_hash` is implied.
        fail_fast: Whether the first failure ends the job.
        relative_to: The inputs, if ids of files, and of rows that have none, are relative to them; else ids are paths.

    Raises:
        SpecError: If an option is invalid, or has no effect with the plan.
    """

    plan: Plan = dataclasses.field(default_factory=DocumentEmbedPlan)
    reader: ReaderOptions = DEFAULT_READER
    drop: Sequence[str] = ()
    format: Format = "parquet"
    dtype: str | None = None
    content_hash: bool = False
    skip_existing: SkipExisting | None = None
    fail_fast: bool = False
    relative_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what can be checked without the inputs."""
        check_choice("format", self.format, FORMATS)
        vector_type(self.written_dtype)
        object.__setattr__(self, "relative_to", tuple(map(absolute, self.relative_to)))
        if self.plan.of_rows and self.reader != DEFAULT_READER:
            others = ", ".join(self.reader.as_dict())
            raise SpecError(setting("columns", ...) + f" embeds rows; {others} are for documents")
        if self.plan.by:
            raise SpecError(
                "a job takes its rows one by one, and flat rows are ranked within groups",
                hint="clipmill.transforms.Rank(by=…) on Beam and clipmill.udfs.rank_groups(by=…) on Spark do that",
            )
        if (self.skip_existing or self.content_hash) and not self.plan.makes_vectors:
            raise SpecError("rows are skipped, and content hashes written, only where rows are embedded")
        if self.skip_existing is not None and self.skip_existing.by == "content":
            object.__setattr__(self, "content_hash", True)
        if self.drop and not self.plan.of_rows:
            leaves = setting("drop") + " leaves out columns of rows, and documents are embedded without "
            raise SpecError(leaves + setting("columns", ...))

    @property
    def written_dtype(self) -> str:
        """The type of the written vectors."""
        return self.dtype or default_dtype(self.format)
